# Finds the dependencies of the library. A target that the including project has already defined is used as it is.
# Searches Python packages too: the wheels of openvino and nlohmann-json contain headers, those of onnxruntime, TensorRT
# and CUDA contain libraries.

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
if(NOT TARGET OpenSSL::Crypto)
  find_package(OpenSSL QUIET COMPONENTS Crypto)
endif()
if(NOT TARGET OpenSSL::Crypto)
  message(FATAL_ERROR "OpenSSL (for SHA-256) was not found; run: apt install libssl-dev")
endif()
if(MSAL_DEPLOY_TOOLS OR (NOT DEFINED MSAL_DEPLOY_TOOLS AND PROJECT_IS_TOP_LEVEL))
  if(NOT TARGET CLI11::CLI11)
    find_package(CLI11 2.1 QUIET)
  endif()
  foreach(name IN ITEMS PNG JPEG TIFF)
    if(NOT TARGET ${name}::${name})
      find_package(${name} QUIET)
    endif()
  endforeach()
  if(NOT TARGET CLI11::CLI11 OR NOT TARGET PNG::PNG OR NOT TARGET JPEG::JPEG OR NOT TARGET TIFF::TIFF)
    message(FATAL_ERROR "CLI11, libpng, libjpeg or libtiff (for msal-segment) was not found; run: apt install libcli11-dev libpng-dev libjpeg-dev libtiff-dev (or build the library alone with -DMSAL_DEPLOY_TOOLS=OFF)")
  endif()
endif()

if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.11 QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
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

if(NOT TARGET openvino::runtime)
  find_package(OpenVINO QUIET COMPONENTS Runtime)
endif()
if(NOT TARGET openvino::runtime)
  msal_deploy_wheel(openvino wheel)
  find_package(OpenVINO QUIET COMPONENTS Runtime PATHS "${wheel}/cmake" NO_DEFAULT_PATH)
endif()
set(found FALSE)
add_library(msal_deploy_runtime_openvino INTERFACE)
if(TARGET openvino::runtime)
  set(found TRUE)
  get_target_property(folders openvino::runtime INTERFACE_INCLUDE_DIRECTORIES)
  list(FILTER folders INCLUDE REGEX "^/")
  foreach(folder IN LISTS folders)
    # OpenVINO's messages name the file they come from; its folder on this machine tells nobody anything.
    target_compile_options(msal_deploy_runtime_openvino INTERFACE "-fmacro-prefix-map=${folder}/=")
  endforeach()
endif()
target_link_libraries(msal_deploy_runtime_openvino INTERFACE openvino::runtime)
msal_deploy_backend(openvino MSAL_DEPLOY_OPENVINO ${found} "OpenVINO: python3 -m pip install openvino")

# The wheel of ONNX Runtime contains the library, but no headers. Those of any earlier release will do, because the
# program asks the library for the version of the interface that the headers have.
msal_deploy_wheel(onnxruntime wheel)
find_path(MSAL_DEPLOY_ONNXRUNTIME_HEADERS onnxruntime_cxx_api.h HINTS ${onnxruntime_ROOT} ENV onnxruntime_ROOT
          PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
find_library(MSAL_DEPLOY_ONNXRUNTIME_LIBRARY NAMES onnxruntime HINTS ${onnxruntime_ROOT} ENV onnxruntime_ROOT PATH_SUFFIXES lib)
if(NOT MSAL_DEPLOY_ONNXRUNTIME_LIBRARY)
  file(GLOB library "${wheel}/capi/libonnxruntime.so.1.*")
  if(library)
    # Programs look for it by its soname, which the wheel has no link for.
    file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/runtimes)
    file(CREATE_LINK ${library} ${PROJECT_BINARY_DIR}/runtimes/libonnxruntime.so.1 SYMBOLIC)
    set(MSAL_DEPLOY_ONNXRUNTIME_LIBRARY ${PROJECT_BINARY_DIR}/runtimes/libonnxruntime.so.1)
  endif()
endif()
set(found FALSE)
set(needs "ONNX Runtime: python3 -m pip install onnxruntime")
if(MSAL_DEPLOY_ONNXRUNTIME_LIBRARY AND NOT MSAL_DEPLOY_ONNXRUNTIME_HEADERS)
  set(needs "onnxruntime_cxx_api.h: set -Donnxruntime_ROOT=<folder of a release, or of its headers>")
elseif(MSAL_DEPLOY_ONNXRUNTIME_LIBRARY)
  set(found TRUE)
  add_library(msal_deploy_runtime_onnxruntime SHARED IMPORTED)
  set_target_properties(
    msal_deploy_runtime_onnxruntime PROPERTIES IMPORTED_LOCATION ${MSAL_DEPLOY_ONNXRUNTIME_LIBRARY}
                                               INTERFACE_INCLUDE_DIRECTORIES ${MSAL_DEPLOY_ONNXRUNTIME_HEADERS})
endif()
msal_deploy_backend(onnxruntime MSAL_DEPLOY_ONNXRUNTIME ${found} "${needs}")

include(${CMAKE_CURRENT_LIST_DIR}/tensorrt.cmake)

if(NOT MSAL_DEPLOY_BACKENDS)
  message(FATAL_ERROR "No runtime was found; install the smallest one with: python3 -m pip install openvino")
endif()
