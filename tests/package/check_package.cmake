# Builds and runs examples/consumer in one of the ways a user would.
#   cmake -DMODE=<find_package|add_subdirectory|fetch_content|pkg_config> -DSOURCE=<this project> -DBUILD=<its build>
#         -DWORK=<folder> -DCOMPILER=g++ -DGENERATOR=Ninja -P check_package.cmake

cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${status}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# Installs and then moves, so that a path of the first place would be found out.
function(install_and_move)
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/first")
  file(RENAME "${WORK}/first" "${WORK}/moved")
  file(GLOB_RECURSE files "${WORK}/moved/*")
  list(LENGTH files count)
  if(count LESS 5)
    message(FATAL_ERROR "only ${count} files were installed")
  endif()
  foreach(file IN LISTS files)
    file(STRINGS "${file}" lines REGEX "${WORK}|${SOURCE}")
    if(lines)
      message(FATAL_ERROR "${file} names a folder of this machine: ${lines}")
    endif()
  endforeach()
endfunction()

file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
set(consumer "${SOURCE}/examples/consumer")
set(options)
if(MODE STREQUAL find_package)
  install_and_move()
  set(options "-DCMAKE_PREFIX_PATH=${WORK}/moved")
elseif(MODE STREQUAL add_subdirectory)
  set(options "-DSRFORMER_SOURCE=${SOURCE}")
elseif(MODE STREQUAL fetch_content)
  set(options "-DSRFORMER_SOURCE=${SOURCE}" -DCONSUMER_FETCH=ON)
endif()

if(MODE STREQUAL pkg_config)
  install_and_move()
  set(ENV{PKG_CONFIG_PATH} "${WORK}/moved/share/pkgconfig:$ENV{PKG_CONFIG_PATH}")
  run(pkg-config --cflags srformer)
  separate_arguments(flags UNIX_COMMAND "${output}")
  run("${COMPILER}" -std=c++20 ${flags} "${consumer}/main.cpp" -o "${WORK}/consumer")
  run("${WORK}/consumer")
else()
  run("${CMAKE_COMMAND}" -S "${consumer}" -B "${WORK}/build" -G "${GENERATOR}"
      "-DCMAKE_CXX_COMPILER=${COMPILER}" ${options})
  run("${CMAKE_COMMAND}" --build "${WORK}/build")
  # A user's build holds the consumer alone, none of this project's tests, examples or benchmarks.
  file(GLOB_RECURSE objects "${WORK}/build/*.o")
  list(LENGTH objects count)
  if(NOT count EQUAL 1)
    message(FATAL_ERROR "the consumer compiled ${count} files instead of one:\n${objects}")
  endif()
  run("${WORK}/build/consumer")
endif()

if(MODE STREQUAL find_package)
  # A component that no package provides is refused by name; one that is there is found.
  file(WRITE "${WORK}/components/CMakeLists.txt" "cmake_minimum_required(VERSION 3.22)\n"
       "project(components LANGUAGES CXX)\n"
       "find_package(srformer REQUIRED COMPONENTS srformer \${ALSO})\n")
  set(configure "${CMAKE_COMMAND}" -S "${WORK}/components" -B "${WORK}/components/build"
      -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" ${options})
  run(${configure})
  execute_process(COMMAND ${configure} -DALSO=telepathy RESULT_VARIABLE status OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  if(status EQUAL 0 OR NOT output MATCHES "telepathy")
    message(FATAL_ERROR "an unknown component was not refused by name:\n${output}")
  endif()
endif()
