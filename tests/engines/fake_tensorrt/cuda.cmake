# Replaces find_package(CUDAToolkit): the fake library defines CUDA's functions too.
add_library(CUDA::cudart SHARED IMPORTED GLOBAL)
set_target_properties(CUDA::cudart PROPERTIES IMPORTED_LOCATION ${TensorRT_ROOT}/lib/libnvinfer.so)
