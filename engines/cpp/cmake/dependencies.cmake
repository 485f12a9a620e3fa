# Finds the dependencies of the library. Searches Python packages too: the wheels of openvino and nlohmann-json contain
# headers.

find_program(MSAL_DEPLOY_PYTHON NAMES python3 python DOC "Python whose packages are searched")

# Sets `out` to the folder of an installed Python package, or to an empty string.
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
  message(FATAL_ERROR "OpenSSL (for SHA-256) was not found; run: apt install libssl-dev")
endif()
if(MSAL_DEPLOY_TOOLS OR (NOT DEFINED MSAL_DEPLOY_TOOLS AND PROJECT_IS_TOP_LEVEL))
  find_package(CLI11 2.1 QUIET)
  find_package(PNG QUIET)
  if(NOT CLI11_FOUND OR NOT PNG_FOUND)
    message(FATAL_ERROR "CLI11 or libpng (for msal-segment) was not found; run: apt install libcli11-dev libpng-dev (or build the library alone with -DMSAL_DEPLOY_TOOLS=OFF)")
  endif()
endif()

find_package(nlohmann_json 3.11 QUIET)
if(NOT nlohmann_json_FOUND)
  msal_deploy_wheel(nlohmann_json wheel)
  find_path(MSAL_DEPLOY_JSON nlohmann/json.hpp HINTS "${wheel}/include")
  if(NOT MSAL_DEPLOY_JSON)
    message(FATAL_ERROR "nlohmann/json.hpp 3.11 or later was not found; run: python3 -m pip install nlohmann-json (or apt install nlohmann-json3-dev)")
  endif()
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json INTERFACE ${MSAL_DEPLOY_JSON})
endif()

# Each backend is built if it is found (AUTO), required (ON) or left out (OFF).
set(MSAL_DEPLOY_OPENVINO AUTO CACHE STRING "OpenVINO, on the CPU: AUTO, ON or OFF")
set(MSAL_DEPLOY_ONNXRUNTIME AUTO CACHE STRING "ONNX Runtime, on the CPU: AUTO, ON or OFF")
set(MSAL_DEPLOY_TENSORRT AUTO CACHE STRING "TensorRT or TensorRT for RTX: AUTO, ON or OFF")
set(MSAL_DEPLOY_BACKENDS "")

# Adds a backend to MSAL_DEPLOY_BACKENDS if `found` is true, and prints whether it is built.
function(msal_deploy_backend name option found needs)
  if("${${option}}" STREQUAL "OFF")
    message(STATUS "msal_deploy: ${name}: not built: ${option} is OFF")
  elseif(found)
    message(STATUS "msal_deploy: ${name}: built")
    set(MSAL_DEPLOY_BACKENDS ${MSAL_DEPLOY_BACKENDS} ${name} PARENT_SCOPE)
  elseif("${${option}}" STREQUAL "ON")
    message(FATAL_ERROR "${name} was not found although ${option} is ON; it needs ${needs}")
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

# The wheel of ONNX Runtime does not work here: it has no headers, and the file name of its library is not its soname.
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
msal_deploy_backend(onnxruntime MSAL_DEPLOY_ONNXRUNTIME ${found} "onnxruntime_cxx_api.h: set -Donnxruntime_ROOT=<folder of a release>")

# TensorRT and TensorRT for RTX define the same symbols, so a build has only one: the one whose headers are found.
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
set(needs "NvInfer.h: set -DTensorRT_ROOT=<folder of a release>")
if(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT MSAL_DEPLOY_TENSORRT_LIBRARY)
  set(needs "libnvinfer or libtensorrt_rtx: set -DTensorRT_ROOT=<folder of a release>")
elseif(MSAL_DEPLOY_TENSORRT_HEADERS AND NOT TARGET CUDA::cudart)
  set(needs "the CUDA toolkit: set -DCUDAToolkit_ROOT=<folder>")
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
  message(FATAL_ERROR "No runtime was found; install the smallest one with: python3 -m pip install openvino")
endif()
