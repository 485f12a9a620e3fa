# Finds what the library is made of. What pip has installed is found too: openvino and nlohmann-json carry headers.

find_program(MSAL_DEPLOY_PYTHON NAMES python3 python DOC "The Python whose packages are looked at")

# Sets `out` to the folder of an installed Python package, or to nothing.
function(msal_deploy_wheel package out)
  set(folder "")
  if(MSAL_DEPLOY_PYTHON)
    execute_process(
      COMMAND ${MSAL_DEPLOY_PYTHON} -c "import importlib.util as u; s = u.find_spec('${package}'); print(s.submodule_search_locations[0] if s else '', end='')"
      OUTPUT_VARIABLE folder ERROR_QUIET)
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

find_package(Threads REQUIRED)
find_package(OpenSSL QUIET COMPONENTS Crypto)
if(NOT OpenSSL_FOUND)
  message(FATAL_ERROR "The headers of OpenSSL are needed, for SHA-256; run: apt install libssl-dev")
endif()
if(MSAL_DEPLOY_TOOLS OR (NOT DEFINED MSAL_DEPLOY_TOOLS AND PROJECT_IS_TOP_LEVEL))
  find_package(PNG QUIET)
  if(NOT PNG_FOUND)
    message(FATAL_ERROR "msal-segment needs the headers of libpng; run: apt install libpng-dev (or give -DMSAL_DEPLOY_TOOLS=OFF)")
  endif()
endif()

find_package(nlohmann_json 3.7 QUIET)
if(NOT nlohmann_json_FOUND)
  msal_deploy_wheel(nlohmann_json wheel)
  find_path(MSAL_DEPLOY_JSON nlohmann/json.hpp HINTS "${wheel}/include")
  if(NOT MSAL_DEPLOY_JSON)
    message(FATAL_ERROR "nlohmann/json.hpp is needed; run: python3 -m pip install nlohmann-json (or apt install nlohmann-json3-dev)")
  endif()
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json INTERFACE ${MSAL_DEPLOY_JSON})
endif()

# Backends: each is built where it is found (AUTO), must be found (ON), or is left out (OFF).
set(MSAL_DEPLOY_OPENVINO AUTO CACHE STRING "OpenVINO, on the CPU: AUTO, ON or OFF")
set(MSAL_DEPLOY_ONNXRUNTIME AUTO CACHE STRING "ONNX Runtime, on the CPU: AUTO, ON or OFF")
set(MSAL_DEPLOY_TENSORRT AUTO CACHE STRING "TensorRT or TensorRT for RTX: AUTO, ON or OFF")
set(MSAL_DEPLOY_BACKENDS "")

# Adds a backend whose `found` is true; says so where it is not.
function(msal_deploy_backend name option found needs)
  if("${${option}}" STREQUAL "OFF")
    message(STATUS "msal_deploy: ${name}: not built: ${option} is OFF")
  elseif(found)
    message(STATUS "msal_deploy: ${name}: built")
    set(MSAL_DEPLOY_BACKENDS ${MSAL_DEPLOY_BACKENDS} ${name} PARENT_SCOPE)
  elseif("${${option}}" STREQUAL "ON")
    message(FATAL_ERROR "${name} was asked for and needs ${needs}")
  else()
    message(STATUS "msal_deploy: ${name}: not built: needs ${needs}")
  endif()
endfunction()

find_package(OpenVINO QUIET COMPONENTS Runtime)
if(NOT OpenVINO_FOUND)
  msal_deploy_wheel(openvino wheel)
  find_package(OpenVINO QUIET COMPONENTS Runtime PATHS "${wheel}/cmake" NO_DEFAULT_PATH)
endif()
add_library(msal_deploy_runtime_openvino INTERFACE)
target_link_libraries(msal_deploy_runtime_openvino INTERFACE openvino::runtime)
msal_deploy_backend(openvino MSAL_DEPLOY_OPENVINO "${OpenVINO_FOUND}" "OpenVINO: python3 -m pip install openvino")

# Its wheel has no headers, and a library whose name is not the one that it asks to be loaded by.
find_path(MSAL_DEPLOY_ONNXRUNTIME_HEADERS onnxruntime_cxx_api.h HINTS ${onnxruntime_ROOT} ENV onnxruntime_ROOT
          PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
find_library(MSAL_DEPLOY_ONNXRUNTIME_LIBRARY NAMES onnxruntime HINTS ${onnxruntime_ROOT} ENV onnxruntime_ROOT PATH_SUFFIXES lib)
set(found FALSE)
if(MSAL_DEPLOY_ONNXRUNTIME_HEADERS AND MSAL_DEPLOY_ONNXRUNTIME_LIBRARY)
  set(found TRUE)
  add_library(msal_deploy_runtime_onnxruntime SHARED IMPORTED)
  set_target_properties(
    msal_deploy_runtime_onnxruntime PROPERTIES IMPORTED_LOCATION ${MSAL_DEPLOY_ONNXRUNTIME_LIBRARY}
                                               INTERFACE_INCLUDE_DIRECTORIES ${MSAL_DEPLOY_ONNXRUNTIME_HEADERS})
endif()
msal_deploy_backend(onnxruntime MSAL_DEPLOY_ONNXRUNTIME ${found} "onnxruntime_cxx_api.h: give -Donnxruntime_ROOT=<folder of its release>")

# TensorRT and TensorRT for RTX have the same symbols, so a build holds one of them: the one whose headers are found.
msal_deploy_wheel(tensorrt_libs wheel)
msal_deploy_wheel(tensorrt_rtx_libs rtx_wheel)
find_path(MSAL_DEPLOY_TENSORRT_HEADERS NvInfer.h HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT PATH_SUFFIXES include)
set(name tensorrt)
set(libraries nvinfer libnvinfer.so.8 libnvinfer.so.10 libnvinfer.so.11)
if(MSAL_DEPLOY_TENSORRT_HEADERS)
  file(STRINGS ${MSAL_DEPLOY_TENSORRT_HEADERS}/NvInferVersion.h rtx REGEX "define +TRT_MAJOR_RTX")
  if(rtx)
    set(name tensorrt-rtx)
    set(libraries tensorrt_rtx libtensorrt_rtx.so.1)
    set(wheel ${rtx_wheel})
  endif()
endif()
find_library(MSAL_DEPLOY_TENSORRT_LIBRARY NAMES ${libraries} HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT ${wheel} PATH_SUFFIXES lib)
if(NOT TARGET CUDA::cudart)
  find_package(CUDAToolkit QUIET)
endif()
set(found FALSE)
set(needs "NvInfer.h: give -DTensorRT_ROOT=<folder of its release>")
if(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT MSAL_DEPLOY_TENSORRT_LIBRARY)
  set(needs "libnvinfer or libtensorrt_rtx: give -DTensorRT_ROOT=<folder of its release>")
elseif(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT TARGET CUDA::cudart)
  set(needs "the CUDA toolkit: give -DCUDAToolkit_ROOT=<folder>")
elseif(MSAL_DEPLOY_TENSORRT_HEADERS)
  set(found TRUE)
  add_library(msal_deploy_runtime_tensorrt SHARED IMPORTED)
  set_target_properties(
    msal_deploy_runtime_tensorrt PROPERTIES IMPORTED_LOCATION ${MSAL_DEPLOY_TENSORRT_LIBRARY}
                                            INTERFACE_INCLUDE_DIRECTORIES ${MSAL_DEPLOY_TENSORRT_HEADERS})
  target_link_libraries(msal_deploy_runtime_tensorrt INTERFACE CUDA::cudart)
endif()
msal_deploy_backend(${name} MSAL_DEPLOY_TENSORRT ${found} "${needs}")

if(NOT MSAL_DEPLOY_BACKENDS)
  message(FATAL_ERROR "No runtime was found; the smallest is: python3 -m pip install openvino")
endif()
