# Installs a folder that works wherever it is moved: programs find the library, and the library its runtimes, relative to
# themselves.
include(CMakePackageConfigHelpers)

# The runtimes get a folder of their own, so that their libraries (TBB, for example) do not become those of other
# programs under the same prefix.
set(runtimes ${CMAKE_INSTALL_LIBDIR}/msal_deploy)
set_target_properties(msal_deploy PROPERTIES INSTALL_RPATH "$ORIGIN;$ORIGIN/msal_deploy" INSTALL_RPATH_USE_LINK_PATH OFF)
set(dependencies)
if(MSAL_DEPLOY_INSTALL_RUNTIMES)
  set(dependencies RUNTIME_DEPENDENCY_SET msal_deploy_runtimes)
endif()
install(TARGETS msal_deploy EXPORT msal_deploy-targets ${dependencies})
if(MSAL_DEPLOY_TOOLS)
  file(RELATIVE_PATH libraries /prefix/${CMAKE_INSTALL_BINDIR} /prefix/${CMAKE_INSTALL_LIBDIR})
  set_target_properties(msal-segment PROPERTIES INSTALL_RPATH "$ORIGIN/${libraries}" INSTALL_RPATH_USE_LINK_PATH OFF)
  install(TARGETS msal-segment)
endif()

if(MSAL_DEPLOY_INSTALL_RUNTIMES)
  # What the library is linked with, wherever the linker found it. What the system has stays the system's.
  install(
    RUNTIME_DEPENDENCY_SET msal_deploy_runtimes
    PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|gcc_s|stdc\\+\\+)\\.so" "^libcuda\\.so"
    POST_EXCLUDE_REGEXES "^/(usr/)?lib"
    LIBRARY DESTINATION ${runtimes})
endif()
if(MSAL_DEPLOY_INSTALL_RUNTIMES AND openvino IN_LIST MSAL_DEPLOY_BACKENDS)
  # What OpenVINO loads while it runs: the CPU plugin, the readers of ONNX graphs and of cached ones, and what TBB loads.
  set(folder /usr/lib)
  get_target_property(type openvino::runtime TYPE)
  if(type STREQUAL SHARED_LIBRARY)
    get_target_property(library openvino::runtime LOCATION)
    get_filename_component(folder ${library} DIRECTORY)
  endif()
  if(NOT folder MATCHES "^/(usr/)?lib")
    foreach(name IN ITEMS libopenvino_intel_cpu_plugin.so libopenvino_onnx_frontend.so libopenvino_ir_frontend.so
                          libtbb libhwloc.so plugins.xml)
      file(GLOB files ${folder}/${name}*)
      install(FILES ${files} DESTINATION ${runtimes})
    endforeach()
  endif()
endif()

install(DIRECTORY include/ ${PROJECT_BINARY_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.h")
install(EXPORT msal_deploy-targets NAMESPACE msal_deploy:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msal_deploy)
configure_package_config_file(cmake/msal_deploy-config.cmake.in msal_deploy-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msal_deploy)
write_basic_package_version_file(msal_deploy-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/msal_deploy-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/msal_deploy-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/msal_deploy)

file(RELATIVE_PATH prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/msal_deploy.pc.in msal_deploy.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/msal_deploy.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(PROJECT_IS_TOP_LEVEL)
  set(CPACK_GENERATOR TGZ)
  set(CPACK_PACKAGE_VENDOR "the authors of msal-deploy")
  include(CPack)
endif()
