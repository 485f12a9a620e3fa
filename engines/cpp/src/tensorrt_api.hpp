// TensorRT 8.6 or later, or TensorRT for RTX. Their classes have the same names, so a build has only one of them: the
// one whose NvInfer.h it includes.
#pragma once

#include <NvInfer.h>

#if !defined(TRT_MAJOR_RTX) && (NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6))
#error "TensorRT is not 8.6 or later, the first with uint8 inputs and host code in plans; use a later one"
#endif

// The caller can give a context its memory, as much as the current shapes need. Before 10.1, a context has as much as
// the largest shapes of the profile need.
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1)
#define MSAL_DEPLOY_CONTEXT_MEMORY
#endif

namespace msal_deploy {

#ifdef TRT_MAJOR_RTX
constexpr const char* tensorrt_name = "tensorrt-rtx";
#else
constexpr const char* tensorrt_name = "tensorrt";
#endif

// Contexts that share the profile of a plan. Before TensorRT 10, each needs a profile of its own.
#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 10
constexpr int max_contexts = 2;
#else
constexpr int max_contexts = 1;
#endif

}  // namespace msal_deploy
