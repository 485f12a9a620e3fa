// The version of the fake: TensorRT 10.13.3, or what FAKE_RTX or FAKE_MAJOR and FAKE_MINOR say when it is compiled.
#pragma once

#if defined(FAKE_RTX)
#define TRT_MAJOR_RTX 1
#define TRT_MINOR_RTX 5
#define TRT_PATCH_RTX 0
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_MINOR TRT_MINOR_RTX
#define NV_TENSORRT_PATCH TRT_PATCH_RTX
#elif defined(FAKE_MAJOR)
#define NV_TENSORRT_MAJOR FAKE_MAJOR
#define NV_TENSORRT_MINOR FAKE_MINOR
#define NV_TENSORRT_PATCH 1
#else
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 13
#define NV_TENSORRT_PATCH 3
#endif
