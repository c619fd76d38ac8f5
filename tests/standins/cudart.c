/* A stand-in for NVIDIA's libcudart, for tests: the "GPU's memory" is this process's own. */
#include <stdlib.h>
#include <string.h>

static size_t taken = 0;

int cudaMalloc(void **address, size_t size) {
    *address = malloc(size);
    taken += size;
    return *address == NULL ? 2 : 0;
}

int cudaFree(void *address) {
    free(address);
    return 0;
}

/* kind 1 is host to device, 2 device to host */
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    if (kind != 1 && kind != 2) return 21;
    memcpy(to, from, size);
    return 0;
}

int cudaMemGetInfo(size_t *available, size_t *total) {
    *total = (size_t)8 << 30;
    *available = *total - ((size_t)1 << 20) - taken;
    return 0;
}

int cudaDeviceSynchronize(void) { return 0; }

const char *cudaGetErrorString(int status) { return status == 21 ? "invalid memcpy direction" : "out of memory"; }
