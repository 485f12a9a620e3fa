// Lanes: the lanes of an Engine, which threads take and give back.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

#include "tensorrt_lane.hpp"

namespace msal_deploy {

class Lanes {
  public:
    // Makes one lane, and as many as TensorRT and the memory allow up to `max_contexts`. Throws Failure if there is
    // none.
    Lanes(Engine& engine, bool graphs);

    // What a thread has taken. The destructor gives it back.
    class Taken {
      public:
        explicit Taken(Lanes& from) : from_(from) {}
        Taken(const Taken&) = delete;
        Taken& operator=(const Taken&) = delete;
        ~Taken();

        void add(std::unique_ptr<Lane> lane) { lanes_.push_back(std::move(lane)); }
        std::size_t size() const { return lanes_.size(); }
        Lane& operator[](std::size_t index) { return *lanes_[index % lanes_.size()]; }

      private:
        Lanes& from_;
        std::vector<std::unique_ptr<Lane>> lanes_;
    };

    // Waits for one lane, and adds what else is free, up to `most`: who waits for a second one while holding the first
    // may wait for ever.
    void take(Taken& taken, std::size_t most);

    // Waits for all lanes. Only one thread at a time may hold some and wait for the others.
    void take_all(Taken& taken);

    std::size_t size();

    // Frees all lanes but one, once they are free.
    void shrink();

  private:
    std::unique_ptr<Lane> wait_for_one(std::unique_lock<std::mutex>& lock);

    std::mutex mutex_, all_;
    std::condition_variable freed_;
    std::deque<std::unique_ptr<Lane>> free_;  // the one that was given back first comes first
    std::size_t size_ = 0;
};

}  // namespace msal_deploy
