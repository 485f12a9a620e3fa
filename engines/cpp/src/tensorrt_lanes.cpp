#include "tensorrt_lanes.hpp"

namespace msal_deploy {

Lanes::Lanes(Engine& engine, bool graphs) {
    for (int index = 0; index < max_contexts; ++index) {
        std::unique_ptr<nvinfer1::IExecutionContext> context = engine.context();
        if (!context) break;
        free_.push_back(std::make_unique<Lane>(engine, std::move(context), graphs));
    }
    if (free_.empty()) engine.throw_unusable("The GPU does not have enough memory for");
    size_ = free_.size();
}

Lanes::Taken::~Taken() {
    const std::lock_guard<std::mutex> lock(from_.mutex_);
    for (std::unique_ptr<Lane>& lane : lanes_) from_.free_.push_back(std::move(lane));
    from_.freed_.notify_all();
}

std::unique_ptr<Lane> Lanes::wait_for_one(std::unique_lock<std::mutex>& lock) {
    freed_.wait(lock, [&] { return !free_.empty(); });
    std::unique_ptr<Lane> lane = std::move(free_.front());
    free_.pop_front();
    return lane;
}

void Lanes::take(Taken& taken, std::size_t most) {
    std::unique_lock<std::mutex> lock(mutex_);
    taken.add(wait_for_one(lock));
    while (taken.size() < most && !free_.empty()) taken.add(wait_for_one(lock));
}

void Lanes::take_all(Taken& taken) {
    const std::lock_guard<std::mutex> alone(all_);
    std::unique_lock<std::mutex> lock(mutex_);
    while (taken.size() < size_) taken.add(wait_for_one(lock));
}

std::size_t Lanes::size() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return size_;
}

void Lanes::shrink() {
    const std::lock_guard<std::mutex> alone(all_);
    std::unique_lock<std::mutex> lock(mutex_);
    for (; size_ > 1; --size_) wait_for_one(lock).reset();
}

}  // namespace msal_deploy
