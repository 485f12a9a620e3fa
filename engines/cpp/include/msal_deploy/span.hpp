// Span<T>: a pointer and a length, like std::span in C++20.
//
//     std::vector<unsigned char> rgb(512 * 512 * 3);
//     msal_deploy::Span<const std::uint8_t> span = rgb;
//
// Every container with data() and size() converts to it: std::vector, std::array, std::string, std::span. It is used in
// C++20 programs too, so that they link with a library built as C++17.
//
// Lifetime: a Span owns nothing; the memory must outlive it.
// Threads: as for a pointer.
// Errors: none; functions that take a Span check it.
#pragma once

#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

namespace msal_deploy {

template <class T>
class Span {
    template <class Container>
    using Element = std::remove_pointer_t<decltype(std::data(std::declval<Container&>()))>;

  public:
    constexpr Span() noexcept = default;
    constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}

    // Accepts containers of T or of non-const T. The array pointers rule out other conversions, such as derived to
    // base.
    template <class Container, class = std::enable_if_t<std::is_convertible_v<Element<Container> (*)[], T (*)[]>>>
    constexpr Span(Container&& container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

    constexpr T* data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace msal_deploy
