/*
 * Handles and answers of cuBLAS, cuDNN, cuSPARSE and NCCL, where PyTorch reads them. A communicator is that of one
 * process: what it gathers or reduces is there already.
 */

#include "memory.h"

#include <string.h>

#include <cudnn_version.h>

static int give_handle(void **handle) {
    *handle = new_handle();
    return SUCCESS;
}

int cublasCreate_v2(void **handle) { return give_handle(handle); }
int cublasLtCreate(void **handle) { return give_handle(handle); }
int cublasLtMatmulDescCreate(void **handle) { return give_handle(handle); }
int cublasLtMatmulPreferenceCreate(void **handle) { return give_handle(handle); }
int cublasLtMatrixLayoutCreate(void **handle) { return give_handle(handle); }
int cusparseCreate(void **handle) { return give_handle(handle); }
int cudnnCreate(void **handle) { return give_handle(handle); }

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return SUCCESS;
}

int cublasGetPointerMode_v2(void *handle, int *mode) { return cublasGetMathMode(handle, mode); }

/* One algorithm for every product, which needs no workspace of its own beside the one that PyTorch always holds. */
int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *product, void *a, void *b, void *c, void *d, void *preference, int wanted, void *results,
    int *found
) {
    enum { BYTES_OF_A_RESULT = 96 }; /* cublasLtMatmulHeuristicResult_t */
    memset(results, 0, BYTES_OF_A_RESULT);
    *found = 1;
    return SUCCESS;
}

/* PyTorch compares cuDNN's version with the one it was compiled for; of the others it asks for new features alone. */
size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
size_t cudnnGetCudartVersion(void) { return CUDA_VERSION; }
size_t cublasLtGetVersion(void) { return 130100; }
const char *cudnnGetErrorString(int error) { return "error of the stand-in GPU"; }

int ncclGetVersion(int *version) {
    *version = 22809;
    return SUCCESS;
}

int ncclGetUniqueId(void *number) {
    enum { BYTES_OF_A_NUMBER = 128 }; /* ncclUniqueId */
    memset(number, 1, BYTES_OF_A_NUMBER);
    return SUCCESS;
}

int ncclCommInitRank(void **communicator) { return give_handle(communicator); }
int ncclCommInitRankConfig(void **communicator) { return give_handle(communicator); }
int ncclCommInitRankScalable(void **communicator) { return give_handle(communicator); }

int ncclCommSplit(void *whole, int color, int key, void **part) { return give_handle(part); }

int ncclCommCount(void *communicator, int *count) {
    *count = 1;
    return SUCCESS;
}

int ncclCommUserRank(void *communicator, int *rank) {
    *rank = 0;
    return SUCCESS;
}

int ncclCommGetAsyncError(void *communicator, int *error) {
    *error = SUCCESS;
    return SUCCESS;
}

const char *ncclGetErrorString(int error) { return "error of the stand-in GPU"; }
const char *ncclGetLastError(void *communicator) { return "error of the stand-in GPU"; }

/* Without an answer PyTorch's profiler would ask for records for ever: CUPTI_ERROR_MAX_LIMIT_REACHED. */
int cuptiActivityGetNextRecord(void) { return 12; }
