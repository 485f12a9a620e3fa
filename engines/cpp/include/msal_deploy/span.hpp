// Span: a pointer and a length.
//
// C++17 has no std::span, and a library that was built as C++17 must have the same symbols for a program in C++20: so
// this one, always. Whatever has data() and size() converts to it: std::vector, std::array, std::string, std::span.
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

    // Takes containers of T, and of T without const; of nothing else that a pointer might convert from.
    template <class Container, class = std::enable_if_t<std::is_convertible_v<Element<Container> (*)[], T (*)[]>>>
    constexpr Span(Container&& container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

    constexpr T* data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace msal_deploy
