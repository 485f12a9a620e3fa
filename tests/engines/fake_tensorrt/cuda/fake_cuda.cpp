// Devices, errors and memory of the fake CUDA.
#include "fake_cuda.hpp"

#include <algorithm>

using namespace fake;

namespace {

cudaError_t allocate(void** pointer, std::size_t size, int device) {
    const Lock lock(mutex);
    expect(capturing == nullptr, "an allocation during a capture");
    expect(size > 0, "an allocation of nothing");
    const auto pinned = [](const auto& entry) { return entry.second.device < 0; };
    const bool second = is("second-malloc") && std::count_if(allocations.begin(), allocations.end(), pinned) >= 2;
    if (is("malloc") || second) return result(cudaErrorMemoryAllocation);
    char* memory = static_cast<char*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    std::memset(memory, 0x7F, size);  // values that do not look like results
    allocations[memory] = {size, device};
    *pointer = memory;
    return result();
}

cudaError_t deallocate(void* pointer) {
    const Lock lock(mutex);
    if (pointer == nullptr) return result();
    expect(allocations.erase(static_cast<char*>(pointer)) == 1, "memory was freed that is not allocated");
    std::free(pointer);
    return result();
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorIllegalAddress:
            return "an illegal memory access was encountered";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        default:
            return "invalid argument";
    }
}

cudaError_t cudaGetLastError() {
    const Lock lock(mutex);
    const cudaError_t error = lost ? cudaErrorIllegalAddress : last;
    last = cudaSuccess;
    return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
    const Lock lock(mutex);
    *count = devices;
    return result(is("no-gpu") ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    const Lock lock(mutex);
    if (device < 0 || device >= devices) return result(cudaErrorInvalidDevice);
    current = device;
    return result();
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const Lock lock(mutex);
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 6;
    return result();
}

cudaError_t cudaMalloc(void** pointer, std::size_t size) {
    return allocate(pointer, size, current);
}

cudaError_t cudaFree(void* pointer) {
    return deallocate(pointer);
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t size, unsigned int) {
    return allocate(pointer, size, -1);
}

cudaError_t cudaFreeHost(void* pointer) {
    return deallocate(pointer);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    const Lock lock(mutex);
    const Allocation* found = find(pointer, 1);
    *attributes = {};
    if (found != nullptr) attributes->type = found->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = found != nullptr ? std::max(found->device, 0) : -1;
    return result();
}

}  // extern "C"
