// The version of the fake: TensorRT 10.13.3, or what FAKE_MAJOR and FAKE_MINOR say when it is compiled. For RTX, see
// ../rtx.
#pragma once

#ifdef FAKE_MAJOR
#define NV_TENSORRT_MAJOR FAKE_MAJOR
#define NV_TENSORRT_MINOR FAKE_MINOR
#define NV_TENSORRT_PATCH 1
#else
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 13
#define NV_TENSORRT_PATCH 3
#endif
