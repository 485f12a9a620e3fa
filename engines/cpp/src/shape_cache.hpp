// ShapeCache: what a backend makes for an image shape and keeps for later calls, such as a compiled graph.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "msal_deploy/segmenter.hpp"

namespace msal_deploy {

template <class Value>
class ShapeCache {
  public:
    using Kept = std::shared_ptr<Value>;

    // most: number of shapes kept. While a call uses a value, it stays alive, and while one is being made, it is kept.
    explicit ShapeCache(std::size_t most) : most_(most) {}

    // Returns the value for `shape`, which is `make()` if there is none yet. Only calls of the same shape wait while it
    // is made; calls of other shapes do not. If make() throws, so do all that waited for it, and the next call makes
    // the value anew.
    template <class Make>
    Kept get(const Shape& shape, const Make& make) {
        std::promise<Kept> promise;
        Entry entry;
        if (find_or_add(shape, promise, entry)) return entry->value.get();
        try {
            promise.set_value(make());
        } catch (...) {
            remove(entry);  // before anyone who waits can ask again
            promise.set_exception(std::current_exception());
        }
        drop_old();
        return entry->value.get();
    }

  private:
    struct Slot {
        Shape shape;
        std::shared_future<Kept> value;
    };
    using Entry = std::shared_ptr<const Slot>;
    using Entries = std::list<Entry>;

    // Sets `entry` to that of the shape and returns true, or to a new one, whose value is that of `promise`.
    bool find_or_add(const Shape& shape, std::promise<Kept>& promise, Entry& entry) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = std::find_if(recent_.begin(), recent_.end(), [&](const Entry& one) {
            return one->shape.batch == shape.batch && one->shape.height == shape.height &&
                   one->shape.width == shape.width;
        });
        if (found != recent_.end()) {
            recent_.splice(recent_.begin(), recent_, found);
            entry = recent_.front();
            return true;
        }
        entry = std::make_shared<const Slot>(Slot{shape, promise.get_future().share()});
        recent_.push_front(entry);
        return false;
    }

    void remove(const Entry& entry) {
        const std::lock_guard<std::mutex> lock(mutex_);
        recent_.remove(entry);
    }

    // Drops the least recently used values that are ready. They end after the lock, because that takes time.
    void drop_old() {
        Entries dropped;
        const std::lock_guard<std::mutex> lock(mutex_);
        for (auto at = recent_.end(); at != recent_.begin() && recent_.size() > most_;) {
            const auto last = std::prev(at);
            if ((*last)->value.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
                dropped.splice(dropped.end(), recent_, last);
            } else {
                at = last;
            }
        }
    }

    std::size_t most_;
    std::mutex mutex_;
    Entries recent_;  // most recently used first
};

}  // namespace msal_deploy
