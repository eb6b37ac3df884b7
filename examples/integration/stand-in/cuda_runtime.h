/* cuda_runtime.h: NOT CUDA. The few names of the CUDA runtime that gpu.cpp uses, so that gpu.cpp compiles and its
 * addresses can be checked where there is no GPU: "device" memory is host memory, and a copy is a memcpy that
 * happens at once. It shows nothing about streams, registration or speed. */

#ifndef INTEGRATION_STAND_IN_CUDA_RUNTIME_H
#define INTEGRATION_STAND_IN_CUDA_RUNTIME_H

#include <stddef.h>
#include <string.h>

#define CUDART_VERSION 13000

typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum { cudaHostRegisterDefault = 0, cudaHostRegisterReadOnly = 8 };
enum cudaMemcpySrcAccessOrder { cudaMemcpySrcAccessOrderStream = 1 };
struct cudaMemcpyAttributes {
    enum cudaMemcpySrcAccessOrder srcAccessOrder;
    unsigned int flags;
};

static inline const char *cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid value"; }
static inline cudaError_t cudaHostRegister(void *, size_t, unsigned int) { return cudaSuccess; }
static inline cudaError_t cudaHostUnregister(void *) { return cudaSuccess; }
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

static inline cudaError_t cudaMemcpyBatchAsync(void *const *dsts, const void *const *srcs, const size_t *sizes, size_t count,
                                               struct cudaMemcpyAttributes *attrs, size_t *attrsIdxs, size_t numAttrs, cudaStream_t) {
    if (count == 0 || attrs == NULL || numAttrs != 1 || attrsIdxs[0] != 0) return cudaErrorInvalidValue;
    for (size_t i = 0; i < count; i++) memcpy(dsts[i], srcs[i], sizes[i]);
    return cudaSuccess;
}

#endif
