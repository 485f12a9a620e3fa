// ShapeCache makes each value once, and only calls of the same shape wait for it. No check depends on time: where a
// call waited for another, the test would not end.
#include <atomic>
#include <functional>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "gate.hpp"
#include "shape_cache.hpp"

using namespace msal_deploy;

namespace {

const Shape a{1, 32, 32}, b{1, 32, 64}, c{1, 64, 32};

// Makes numbers for a cache: 0, 1, 2 …
struct Numbers {
    std::atomic<int> made{0};
    std::shared_ptr<int> operator()() { return std::make_shared<int>(made++); }
};

void only_the_same_shape_waits() {
    ShapeCache<int> cache(4);
    Numbers numbers;
    Gate gate;
    const auto slowly = [&] {
        gate.pass();
        return numbers();
    };
    std::shared_ptr<int> first, second;
    std::thread one([&] { first = cache.get(a, slowly); });
    gate.wait_until_reached();
    std::thread two([&] { second = cache.get(a, std::ref(numbers)); });
    CHECK(*cache.get(b, std::ref(numbers)) == 0);  // while `a` is being made
    gate.open();
    one.join();
    two.join();
    CHECK(first == second && *first == 1 && numbers.made == 2);
}

void a_failure_is_not_kept() {
    ShapeCache<int> cache(4);
    Numbers numbers;
    Gate gate;
    const auto fail = [&]() -> std::shared_ptr<int> {
        gate.pass();
        throw std::runtime_error("no memory");
    };
    std::atomic<int> errors{0};
    const auto call = [&](const std::function<std::shared_ptr<int>()>& make) {
        try {
            cache.get(a, make);
        } catch (const std::runtime_error&) {
            ++errors;
        }
    };
    std::thread one(call, fail);
    gate.wait_until_reached();
    std::thread two(call, std::ref(numbers));  // waits and gets the error, or comes later and makes the value
    gate.open();
    one.join();
    two.join();
    CHECK(errors + numbers.made == 2 && errors >= 1);
    CHECK(*cache.get(a, std::ref(numbers)) == 0 && numbers.made == 1);
}

void the_least_recently_used_is_dropped() {
    ShapeCache<int> cache(2);
    Numbers numbers;
    const std::shared_ptr<int> held = cache.get(a, std::ref(numbers));
    const std::weak_ptr<int> second = cache.get(b, std::ref(numbers));
    CHECK(cache.get(a, std::ref(numbers)) == held);
    cache.get(c, std::ref(numbers));  // drops b
    CHECK(second.expired());
    cache.get(b, std::ref(numbers));  // drops a, which is still held
    CHECK(*held == 0 && held.use_count() == 1);
    CHECK(*cache.get(a, std::ref(numbers)) == 4);
}

void what_is_being_made_is_not_dropped() {
    ShapeCache<int> cache(1);
    Numbers numbers;
    Gate gate;
    std::thread one([&] {
        cache.get(a, [&] {
            gate.pass();
            return numbers();
        });
    });
    gate.wait_until_reached();
    const std::weak_ptr<int> other = cache.get(b, std::ref(numbers));  // `b` is dropped rather than `a`
    CHECK(other.expired());
    gate.open();
    one.join();
    CHECK(*cache.get(a, std::ref(numbers)) == 1);
}

}  // namespace

int main() {
    only_the_same_shape_waits();
    a_failure_is_not_kept();
    the_least_recently_used_is_dropped();
    what_is_being_made_is_not_dropped();
    return 0;
}
