/* For any machine: on x86-64 what every one of them has, SSE2. */
#define BUILD_TABLE kernels_plain
#define BUILD_NAME "plain"
#include "build.h"
