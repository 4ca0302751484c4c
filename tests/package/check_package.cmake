# Builds and runs examples/consumer in one of the ways a user would.
#   cmake -DMODE=<find_package|add_subdirectory|fetch_content|pkg_config> -DSOURCE=<this project> -DBUILD=<its build>
#         -DWORK=<folder> -DCOMPILER=g++ -DGENERATOR=Ninja -P check_package.cmake

cmake_minimum_required(VERSION 3.22)

# A folder of its own in WORK, since what is there is removed.
string(APPEND WORK "/package")

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
  # Programs that were built are installed under names of their own, and run where they are.
  foreach(name IN ITEMS init_model finetune summarize evaluate)
    if(EXISTS "${BUILD}/examples/${name}")
      run("${WORK}/moved/bin/srformer-${name}" --help)
    endif()
  endforeach()
  file(GLOB programs RELATIVE "${WORK}/moved/bin" "${WORK}/moved/bin/*")
  list(FILTER programs EXCLUDE REGEX "^srformer-")
  if(programs)
    message(FATAL_ERROR "programs are installed under names that others may have: ${programs}")
  endif()
  list(FILTER files EXCLUDE REGEX "/bin/srformer-")  # programs name the files of their assertions
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
  # build(<module> <source>): compiles and then links with what pkg-config says of the module, and runs it.
  function(build module source)
    run(pkg-config --cflags ${module})
    separate_arguments(flags UNIX_COMMAND "${output}")
    run("${COMPILER}" -std=c++20 ${flags} -c "${source}" -o "${WORK}/${module}.o")
    run(pkg-config --libs ${module})
    separate_arguments(flags UNIX_COMMAND "${output}")
    run("${COMPILER}" "${WORK}/${module}.o" -o "${WORK}/${module}.out" ${flags})
    run("${WORK}/${module}.out")
  endfunction()
  build(srformer "${consumer}/main.cpp")
  file(STRINGS "${BUILD}/CMakeCache.txt" openmp REGEX "^(OpenMP_CXX_FLAGS:STRING=-|SRFORMER_OPENMP:BOOL=ON)")
  list(LENGTH openmp both)
  if(both EQUAL 2)
    file(WRITE "${WORK}/threads.cpp" "#include <srformer/backend/eigen.hpp>\n"
         "int main() { return srformer::EigenBackend(3).threads() == 3 ? 0 : 1; }\n")
    build(srformer "${WORK}/threads.cpp")
  endif()
  # The companions, each where the packages that it requires are described.
  file(WRITE "${WORK}/srformer-io.cpp" "#include <srformer/io/file.hpp>\n#include <nlohmann/json.hpp>\n"
       "int main() { return nlohmann::json::parse(\"0\").get<int>(); }\n")
  file(WRITE "${WORK}/srformer-gzip.cpp" "#include <srformer/io/gzip.hpp>\n#include <zlib.h>\n"
       "int main() { return SRF_HAS_ZLIB == 1 && zlibVersion() != nullptr ? 0 : 1; }\n")
  file(WRITE "${WORK}/srformer-text.cpp" "#include <srformer/text/pattern.hpp>\n#include <sentencepiece_processor.h>\n"
       "int main() { return sentencepiece::SentencePieceProcessor().status().ok() ? 1 : 0; }\n")
  file(WRITE "${WORK}/srformer-mpi.cpp" "#include <srformer/train/mpi_communicator.hpp>\n"
       "int main() { int on = 1; MPI_Initialized(&on); return SRF_HAS_MPI == 1 ? on : 1; }\n")
  foreach(module IN ITEMS srformer-io srformer-gzip srformer-text srformer-mpi)
    execute_process(COMMAND pkg-config --exists ${module} RESULT_VARIABLE absent)
    if(NOT absent)
      build(${module} "${WORK}/${module}.cpp")
    endif()
  endforeach()
else()
  run("${CMAKE_COMMAND}" -S "${consumer}" -B "${WORK}/build" -G "${GENERATOR}"
      "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON ${options})
  # In another project's build these headers and Eigen's are those of a system, whose warnings are nobody's.
  file(READ "${WORK}/build/compile_commands.json" commands)
  if(commands MATCHES "-I[^ ]*(srformer|moved|eigen|${SOURCE})")
    message(FATAL_ERROR "the consumer gets headers by -I instead of -isystem:\n${commands}")
  endif()
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
  run("${CMAKE_COMMAND}" -S "${WORK}/components" -B "${WORK}/components/silent" -G "${GENERATOR}"
      "-DCMAKE_CXX_COMPILER=${COMPILER}" ${options})
  if(output MATCHES "srformer::|Thrust")
    message(FATAL_ERROR "find_package(srformer) speaks without being asked:\n${output}")
  endif()
  set(configure "${CMAKE_COMMAND}" -S "${WORK}/components" -B "${WORK}/components/build"
      -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" ${options})
  run(${configure})
  execute_process(COMMAND ${configure} -DALSO=telepathy RESULT_VARIABLE status OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(status EQUAL 0 OR NOT output MATCHES "srformer has no component telepathy; it has srformer, io,")
    message(FATAL_ERROR "an unknown component was not refused by name:\n${output}")
  endif()
  execute_process(COMMAND ${configure} -DALSO=cuda RESULT_VARIABLE status OUTPUT_VARIABLE output
                  ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(status EQUAL 0 OR NOT output MATCHES "the language CUDA must be enabled before find_package")
    message(FATAL_ERROR "a component that is off was not refused with its reason:\n${output}")
  endif()
endif()
