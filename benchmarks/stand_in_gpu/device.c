/*
 * One device with an H200's properties, its streams, events, modules and kernels. PyTorch, Triton and Inductor choose
 * code by these properties, so they are a real device's; only its name says what it is.
 *
 * Arguments that are not read are left out of the functions' parameters: callers pass them in registers all the same.
 */

#define _GNU_SOURCE
#include "memory.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <driver_types.h>

#define NAME "stand-in for an H200 (computes nothing)"

/* NVIDIA H200: compute capability 9.0, as deviceQuery shows it. */
enum {
    COMPUTE_MAJOR = 9,
    NUM_PROCESSORS = 132,
    WARP = 32,
    THREADS_OF_BLOCK = 1024,
    THREADS_OF_PROCESSOR = 2048,
    BLOCKS_OF_PROCESSOR = 32,
    BLOCK_DEPTH = 64,
    GRID_WIDTH = 2147483647,
    GRID_HEIGHT = 65535,
    REGISTERS = 65536,
    SHARED_OF_BLOCK = 49152,
    SHARED_OF_BLOCK_AT_MOST = 232448,
    SHARED_OF_PROCESSOR = 233472,
    SHARED_RESERVED = 1024,
    CONSTANT_MEMORY = 65536,
    L2_CACHE = 62914560,
    BUS_BITS = 6144,
    COPY_ENGINES = 3,
    CLOCK_KHZ = 1980000,
    MEMORY_CLOCK_KHZ = 3201000,
};

/* Of CUfunction_attribute in cuda.h; what a kernel of ordinary size has. */
enum { FUNCTION_THREADS = 0, FUNCTION_REGISTERS = 4, REGISTERS_OF_THREAD = 32 };

static int attribute_of_device(int attribute) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return THREADS_OF_BLOCK;
    case cudaDevAttrMaxBlockDimZ: return BLOCK_DEPTH;
    case cudaDevAttrMaxGridDimX: return GRID_WIDTH;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return GRID_HEIGHT;
    case cudaDevAttrMaxSharedMemoryPerBlock: return SHARED_OF_BLOCK;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED_OF_BLOCK_AT_MOST;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return SHARED_OF_PROCESSOR;
    case cudaDevAttrReservedSharedMemoryPerBlock: return SHARED_RESERVED;
    case cudaDevAttrTotalConstantMemory: return CONSTANT_MEMORY;
    case cudaDevAttrWarpSize: return WARP;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return REGISTERS;
    case cudaDevAttrClockRate: return CLOCK_KHZ;
    case cudaDevAttrMemoryClockRate: return MEMORY_CLOCK_KHZ;
    case cudaDevAttrGlobalMemoryBusWidth: return BUS_BITS;
    case cudaDevAttrL2CacheSize: return L2_CACHE;
    case cudaDevAttrMultiProcessorCount: return NUM_PROCESSORS;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return THREADS_OF_PROCESSOR;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return BLOCKS_OF_PROCESSOR;
    case cudaDevAttrAsyncEngineCount: return COPY_ENGINES;
    case cudaDevAttrComputeCapabilityMajor: return COMPUTE_MAJOR;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrClusterLaunch: return 1;
    default: return 0;
    }
}

int cudaDeviceGetAttribute(int *value, int attribute) {
    *value = attribute_of_device(attribute);
    return SUCCESS;
}

/* Both enumerations give an attribute the same number. */
int cuDeviceGetAttribute(int *value, int attribute) { return cudaDeviceGetAttribute(value, attribute); }

int cudaGetDeviceProperties(struct cudaDeviceProp *properties) {
    *properties = (struct cudaDeviceProp){
        .name = NAME,
        .totalGlobalMem = device_capacity(),
        .sharedMemPerBlock = SHARED_OF_BLOCK,
        .sharedMemPerBlockOptin = SHARED_OF_BLOCK_AT_MOST,
        .sharedMemPerMultiprocessor = SHARED_OF_PROCESSOR,
        .reservedSharedMemPerBlock = SHARED_RESERVED,
        .regsPerBlock = REGISTERS,
        .regsPerMultiprocessor = REGISTERS,
        .warpSize = WARP,
        .maxThreadsPerBlock = THREADS_OF_BLOCK,
        .maxThreadsDim = {THREADS_OF_BLOCK, THREADS_OF_BLOCK, BLOCK_DEPTH},
        .maxGridSize = {GRID_WIDTH, GRID_HEIGHT, GRID_HEIGHT},
        .maxThreadsPerMultiProcessor = THREADS_OF_PROCESSOR,
        .maxBlocksPerMultiProcessor = BLOCKS_OF_PROCESSOR,
        .totalConstMem = CONSTANT_MEMORY,
        .major = COMPUTE_MAJOR,
        .multiProcessorCount = NUM_PROCESSORS,
        .l2CacheSize = L2_CACHE,
        .memoryBusWidth = BUS_BITS,
        .asyncEngineCount = COPY_ENGINES,
        .textureAlignment = 512,
        .cooperativeLaunch = 1,
        .concurrentKernels = 1,
        .unifiedAddressing = 1,
        .managedMemory = 1,
    };
    return SUCCESS;
}

/* CUDA 12 calls it so. */
int cudaGetDeviceProperties_v2(struct cudaDeviceProp *properties) { return cudaGetDeviceProperties(properties); }

int cudaGetDeviceCount(int *count) {
    *count = 1;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }

int cudaGetDevice(int *number) {
    *number = 0;
    return SUCCESS;
}

int cuDeviceGet(int *number) { return cudaGetDevice(number); }
int cuCtxGetDevice(int *number) { return cudaGetDevice(number); }

int cudaDeviceCanAccessPeer(int *can) {
    *can = 0;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int size) {
    snprintf(name, size, "%s", NAME);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *size) {
    *size = device_capacity();
    return SUCCESS;
}

int cudaDeviceGetPCIBusId(char *text, int size) {
    snprintf(text, size, "0000:01:00.0");
    return SUCCESS;
}

/* CUDA_VERSION is what PyTorch was built with; build.py defines it. */
int cudaDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return SUCCESS;
}

int cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
int cuDriverGetVersion(int *version) { return cudaDriverGetVersion(version); }

const char *cudaGetErrorString(int error) {
    return error == OUT_OF_MEMORY ? "out of memory" : "error of the stand-in GPU";
}

const char *cudaGetErrorName(int error) { return cudaGetErrorString(error); }

int cuGetErrorString(int error, const char **text) {
    *text = cudaGetErrorString(error);
    return SUCCESS;
}

int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }

/* Streams and events: work is done as soon as it is given. */

int cudaStreamCreate(void **stream) {
    *stream = new_handle();
    return SUCCESS;
}

int cudaStreamCreateWithFlags(void **stream) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(void **stream) { return cudaStreamCreate(stream); }

int cudaStreamGetPriority(void *stream, int *priority) {
    *priority = 0;
    return SUCCESS;
}

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

int cudaStreamIsCapturing(void *stream, int *status) {
    *status = cudaStreamCaptureStatusNone;
    return SUCCESS;
}

int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *number) {
    *status = cudaStreamCaptureStatusNone;
    if (number) *number = 0;
    return SUCCESS;
}

int cudaStreamGetCaptureInfo_v2(void *stream, int *status, unsigned long long *number) {
    return cudaStreamGetCaptureInfo(stream, status, number);
}

int cudaEventCreateWithFlags(double **event) {
    *event = new_handle();
    return SUCCESS;
}

int cudaEventCreate(double **event) { return cudaEventCreateWithFlags(event); }

int cudaEventRecord(double *milliseconds) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *milliseconds = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    return SUCCESS;
}

int cudaEventRecordWithFlags(double *event) { return cudaEventRecord(event); }

int cudaEventElapsedTime(float *milliseconds, double *begin, double *end) {
    *milliseconds = *end - *begin;
    return SUCCESS;
}

int cudaEventElapsedTime_v2(float *milliseconds, double *begin, double *end) {
    return cudaEventElapsedTime(milliseconds, begin, end);
}

/* Kernels: all of them can be found and have attributes; launching them is one of the entry points that do nothing. */

static char registered;

void **__cudaRegisterFatBinary(void) { return (void **)&registered; }
void __cudaRegisterFatBinaryEnd(void) {}
void __cudaUnregisterFatBinary(void) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
void __cudaRegisterManagedVar(void) {}
char __cudaInitModule(void) { return 1; }
unsigned __cudaPushCallConfiguration(void) { return 0; }
int __cudaPopCallConfiguration(void) { return SUCCESS; }
int __cudaLaunchKernel(void) { return SUCCESS; }

int __cudaGetKernel(const void **kernel, const void *function) {
    *kernel = function;
    return SUCCESS;
}

int cudaFuncGetAttributes(struct cudaFuncAttributes *attributes) {
    *attributes = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = THREADS_OF_BLOCK,
        .numRegs = REGISTERS_OF_THREAD,
        .ptxVersion = 10 * COMPUTE_MAJOR,
        .binaryVersion = 10 * COMPUTE_MAJOR,
        .maxDynamicSharedSizeBytes = SHARED_OF_BLOCK,
    };
    return SUCCESS;
}

int cuFuncGetAttribute(int *value, int attribute) {
    *value = attribute == FUNCTION_THREADS     ? THREADS_OF_BLOCK
             : attribute == FUNCTION_REGISTERS ? REGISTERS_OF_THREAD
                                               : 0;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count) {
    *count = 2;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(count);
}

int cuOccupancyMaxActiveClusters(int *count) {
    *count = 1;
    return SUCCESS;
}

static int give_handle(void **handle) {
    *handle = new_handle();
    return SUCCESS;
}

int cuModuleLoad(void **module) { return give_handle(module); }
int cuModuleLoadData(void **module) { return give_handle(module); }
int cuModuleLoadDataEx(void **module) { return give_handle(module); }
int cuModuleGetFunction(void **function) { return give_handle(function); }
int cuLibraryLoadData(void **library) { return give_handle(library); }
int cuLibraryGetKernel(void **kernel) { return give_handle(kernel); }

int cuCtxGetCurrent(void **context) {
    *context = &registered;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context) { return cuCtxGetCurrent(context); }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    *flags = 0;
    *is_active = 1;
    return SUCCESS;
}

/* Whoever asks the driver for a function by name is given the one of this library. */

int cuGetProcAddress(const char *name, void **function) {
    *function = dlsym(RTLD_DEFAULT, name);
    return *function ? SUCCESS : NOT_FOUND;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    int answer = cuGetProcAddress(name, function);
    if (status) *status = answer == SUCCESS ? 0 : 1;
    return answer;
}

int cudaGetDriverEntryPoint(const char *name, void **function, uint64_t flags, int *status) {
    cuGetProcAddress_v2(name, function, 0, flags, status);
    return SUCCESS;
}

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, uint64_t flags, int *status) {
    return cudaGetDriverEntryPoint(name, function, flags, status);
}
