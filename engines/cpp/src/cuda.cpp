#include "cuda.hpp"

#include <algorithm>
#include <iterator>

namespace msal_deploy {

namespace {

// The errors after which, by CUDA's documentation, the process "must be terminated and relaunched".
constexpr cudaError_t sticky[] = {
    cudaErrorECCUncorrectable,   cudaErrorIllegalAddress,     cudaErrorLaunchTimeout,     cudaErrorAssert,
    cudaErrorHardwareStackError, cudaErrorIllegalInstruction, cudaErrorMisalignedAddress, cudaErrorInvalidAddressSpace,
    cudaErrorInvalidPc,          cudaErrorLaunchFailure,
};

bool is_sticky(cudaError_t status) {
    return std::find(std::begin(sticky), std::end(sticky), status) != std::end(sticky);
}

}  // namespace

ContextLost::ContextLost(const std::string& reason)
    : Failure(ErrorCode::failed,
              concat("The CUDA context of this process is unusable (", reason, "); restart the process")) {}

void check_cuda(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();
    if (is_sticky(status)) throw ContextLost(cudaGetErrorString(status));
    const std::string message = concat("CUDA could not ", what, " (", cudaGetErrorString(status), "); ");
    if (status == cudaErrorMemoryAllocation) {
        throw OutOfGpuMemory(ErrorCode::missing_requirement, message +
                                                                 "use smaller images or batches, or a GPU with "
                                                                 "more free memory");
    }
    throw_missing_requirement(message, "find the cause with: msal-deploy doctor");
}

void settle(cudaStream_t stream) {
    const cudaError_t status = cudaStreamSynchronize(stream);
    cudaGetLastError();
    if (is_sticky(status)) throw ContextLost(cudaGetErrorString(status));
}

int count_gpus() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status == cudaSuccess && devices > 0) return devices;
    cudaGetLastError();
    throw_missing_requirement("CUDA found no GPU (", status == cudaSuccess ? "0 devices" : cudaGetErrorString(status),
                              "); find the cause with: msal-deploy doctor");
}

int current_device() {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "get the current device");
    return device;
}

std::string compute_capability(int device) {
    int major = 0, minor = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "read a compute capability");
    check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "read a compute capability");
    return concat(major, ".", minor);
}

DeviceGuard::DeviceGuard(int device) : before_(current_device()), changed_(before_ != device) {
    if (changed_) check_cuda(cudaSetDevice(device), "set the device");
}

DeviceGuard::~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
}

void* GpuMemory::reserve(std::size_t size) {
    if (size <= size_) return data_;
    release();
    const bool device = kind_ == MemoryKind::device;
    check_cuda(device ? cudaMalloc(&data_, size) : cudaHostAlloc(&data_, size, cudaHostAllocDefault),
               device ? "allocate memory on the GPU" : "allocate pinned memory");
    size_ = size;
    return data_;
}

void GpuMemory::release() noexcept {
    if (kind_ == MemoryKind::device) {
        cudaFree(data_);
    } else {
        cudaFreeHost(data_);
    }
    data_ = nullptr;
    size_ = 0;
}

void Graph::abandon(cudaStream_t stream) noexcept {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    cudaGetLastError();
}

void Graph::instantiate(cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(stream, &graph), "capture a CUDA graph");
    const cudaError_t status = cudaGraphInstantiateWithFlags(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "instantiate a CUDA graph");
}

void Graph::reset() noexcept {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
    graph_ = nullptr;
}

}  // namespace msal_deploy
