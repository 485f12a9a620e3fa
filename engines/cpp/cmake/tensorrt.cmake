# Finds TensorRT or TensorRT for RTX, and CUDA. Both TensorRTs define the same symbols, so a build has only one: the one
# whose headers are found.

msal_deploy_wheel(tensorrt_libs wheel)
find_path(MSAL_DEPLOY_TENSORRT_HEADERS NvInfer.h HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT PATH_SUFFIXES include)
set(name tensorrt)
set(libraries nvinfer libnvinfer.so.8 libnvinfer.so.10 libnvinfer.so.11)
if(MSAL_DEPLOY_TENSORRT_HEADERS)
  file(STRINGS ${MSAL_DEPLOY_TENSORRT_HEADERS}/NvInferVersion.h rtx REGEX "define +TRT_MAJOR_RTX")
  if(rtx)
    set(name tensorrt-rtx)
    set(libraries tensorrt_rtx libtensorrt_rtx.so.1)
    msal_deploy_wheel(tensorrt_rtx_libs wheel)
  endif()
endif()
find_library(MSAL_DEPLOY_TENSORRT_LIBRARY NAMES ${libraries} HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT ${wheel} PATH_SUFFIXES lib)

# A toolkit, or the wheels of CUDA. Those of CUDA 13 share the folder nvidia/cu13; before, each had its own.
if(NOT TARGET CUDA::cudart)
  find_package(CUDAToolkit QUIET)
endif()
if(NOT TARGET CUDA::cudart)
  msal_deploy_wheel(nvidia.cu13 cuda13)
  msal_deploy_wheel(nvidia.cuda_runtime cuda12)
  msal_deploy_wheel(nvidia.cuda_nvcc nvcc12)
  set(hints ${CUDAToolkit_ROOT} ENV CUDAToolkit_ROOT ${cuda13} ${cuda12})
  find_library(MSAL_DEPLOY_CUDART NAMES cudart libcudart.so.13 libcudart.so.12 NAMES_PER_DIR HINTS ${hints} PATH_SUFFIXES lib lib64)
  find_path(MSAL_DEPLOY_CUDA_HEADERS cuda_runtime_api.h HINTS ${hints} PATH_SUFFIXES include)
  find_path(MSAL_DEPLOY_CUDA_CRT crt/host_defines.h HINTS ${MSAL_DEPLOY_CUDA_HEADERS} ${hints} ${nvcc12} PATH_SUFFIXES include)
  if(MSAL_DEPLOY_CUDART AND MSAL_DEPLOY_CUDA_HEADERS AND MSAL_DEPLOY_CUDA_CRT)
    add_library(CUDA::cudart SHARED IMPORTED)
    set_target_properties(
      CUDA::cudart PROPERTIES IMPORTED_LOCATION ${MSAL_DEPLOY_CUDART}
                              INTERFACE_INCLUDE_DIRECTORIES "${MSAL_DEPLOY_CUDA_HEADERS};${MSAL_DEPLOY_CUDA_CRT}")
  endif()
endif()

set(found FALSE)
set(needs "NvInfer.h: set -DTensorRT_ROOT=<folder of a release>")
if(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT MSAL_DEPLOY_TENSORRT_LIBRARY)
  set(needs "libnvinfer or libtensorrt_rtx: set -DTensorRT_ROOT=<folder of a release>")
elseif(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT TARGET CUDA::cudart)
  set(needs "CUDA: set -DCUDAToolkit_ROOT=<folder of a toolkit>, or run: python3 -m pip install nvidia-cuda-runtime nvidia-cuda-crt")
elseif(MSAL_DEPLOY_TENSORRT_HEADERS)
  set(found TRUE)
  add_library(msal_deploy_runtime_tensorrt SHARED IMPORTED)
  set_target_properties(
    msal_deploy_runtime_tensorrt PROPERTIES IMPORTED_LOCATION ${MSAL_DEPLOY_TENSORRT_LIBRARY}
                                            INTERFACE_INCLUDE_DIRECTORIES ${MSAL_DEPLOY_TENSORRT_HEADERS})
  target_link_libraries(msal_deploy_runtime_tensorrt INTERFACE CUDA::cudart)
endif()
msal_deploy_backend(${name} MSAL_DEPLOY_TENSORRT ${found} "${needs}")
