// The version of the fake of TensorRT for RTX.
#pragma once

#define TRT_MAJOR_RTX 1
#define TRT_MINOR_RTX 5
#define TRT_PATCH_RTX 0
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_MINOR TRT_MINOR_RTX
#define NV_TENSORRT_PATCH TRT_PATCH_RTX
