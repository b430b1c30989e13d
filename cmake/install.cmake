# What `make install` puts where: the program, the library with headers, pkg-config file and CMake package.
include(CMakePackageConfigHelpers)

set(LGV_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Langevin)
set(LGV_BINARY_DIR ${PROJECT_BINARY_DIR}/package)

install(TARGETS langevin_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_BINARY_DIR}/man/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES cli/langevin.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
  RENAME langevin)
install(DIRECTORY include/langevin DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.h)

install(FILES ${PROJECT_BINARY_DIR}/api.html docs/embedding.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The demo model: `langevin sample` without a model finds it beside the program (a link in the build folder)
# or in share/langevin/demo-model (cli/demo_model.c).
target_compile_definitions(langevin_cli PRIVATE LGV_DATADIR="${CMAKE_INSTALL_FULL_DATADIR}/langevin")
if(EXISTS ${CMAKE_SOURCE_DIR}/models/demo/model_index.json)
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/models/demo ${PROJECT_BINARY_DIR}/demo-model SYMBOLIC)
  install(DIRECTORY models/demo/ DESTINATION ${CMAKE_INSTALL_DATADIR}/langevin/demo-model)
endif()

# Two sets, so that who links the shared library needs none of the libraries below it.
set_target_properties(langevin_shared PROPERTIES EXPORT_NAME langevin)
set_target_properties(langevin PROPERTIES EXPORT_NAME langevin_static)
install(TARGETS langevin_shared EXPORT LangevinTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS langevin EXPORT LangevinStaticTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT LangevinTargets NAMESPACE Langevin:: DESTINATION ${LGV_PACKAGE_DIR})
install(EXPORT LangevinStaticTargets NAMESPACE Langevin:: DESTINATION ${LGV_PACKAGE_DIR})
string(REPLACE ";" " " LGV_PC_REQUIRES "${LGV_MODULES}")
configure_package_config_file(cmake/LangevinConfig.cmake.in ${LGV_BINARY_DIR}/LangevinConfig.cmake
  INSTALL_DESTINATION ${LGV_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO)
# Below 1.0 a minor version may change anything.
write_basic_package_version_file(${LGV_BINARY_DIR}/LangevinConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${LGV_BINARY_DIR}/LangevinConfig.cmake ${LGV_BINARY_DIR}/LangevinConfigVersion.cmake
  DESTINATION ${LGV_PACKAGE_DIR})

# Paths are relative to where the file lies, so that `cmake --install --prefix` and DESTDIR need no second build.
file(RELATIVE_PATH LGV_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" LGV_PC_PREFIX "${LGV_PC_PREFIX}")
# What liblangevin.a needs, one level deep: the libraries below are themselves linked as they come, shared or not.
list(REMOVE_DUPLICATES LGV_DEPS_LIBRARIES)
set(LGV_PC_LIBS "")
foreach(library ${LGV_LIBRARIES} ${LGV_DEPS_LIBRARIES})
  string(APPEND LGV_PC_LIBS "-l${library} ")
endforeach()
string(APPEND LGV_PC_LIBS "-pthread -lm")
configure_file(cmake/langevin.pc.in ${LGV_BINARY_DIR}/langevin.pc @ONLY)
install(FILES ${LGV_BINARY_DIR}/langevin.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
