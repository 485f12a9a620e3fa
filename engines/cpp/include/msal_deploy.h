// The C interface of the library, in C99 and with types of fixed width: for C, and for languages that call C.
//
//     msal_deploy_error error;
//     msal_deploy_segmenter* segmenter = NULL;
//     if (msal_deploy_open("model", "int8", NULL, &segmenter, &error) != MSAL_DEPLOY_OK) puts(error.message);
//     msal_deploy_image image = {rgb, 700, 1000, 0, MSAL_DEPLOY_RGB};
//     if (msal_deploy_segment(segmenter, &image, NULL, probability, 700 * 1000, &error) != MSAL_DEPLOY_OK) …
//     msal_deploy_close(segmenter);
//
// Errors: functions that can fail return an MSAL_DEPLOY_ code and, unless `error` is NULL, write the code and a message
// to it. No exception leaves a function. A NULL argument is a bad input unless it is said to be allowed.
// Text is UTF-8 and ends with a zero byte. Sizes are checked, and no call writes beyond the size that it is given.
// Lifetime: nothing keeps a pointer into the arguments of a call, except for the log callback and its user pointer.
// Threads: any number of threads may use one segmenter; it may be closed when all their calls have returned.
// Growth: structures with `struct_size` may get new fields at their end. The function that ends with _init sets that
// size and every field to the library's default; a program built with an older header keeps working.
#ifndef MSAL_DEPLOY_H
#define MSAL_DEPLOY_H

#include <stdint.h>

#ifdef __GNUC__
#define MSAL_DEPLOY_API __attribute__((visibility("default")))
#else
#define MSAL_DEPLOY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// Codes; see ErrorCode in result.hpp. They equal the exit codes of msal-deploy.
enum { MSAL_DEPLOY_OK = 0, MSAL_DEPLOY_FAILED = 1, MSAL_DEPLOY_BAD_INPUT = 2, MSAL_DEPLOY_MISSING_REQUIREMENT = 3 };

// The bytes of a pixel, in this order. Alpha is ignored.
enum { MSAL_DEPLOY_RGB = 0, MSAL_DEPLOY_BGR = 1, MSAL_DEPLOY_RGBA = 2, MSAL_DEPLOY_BGRA = 3 };

enum { MSAL_DEPLOY_LOG_ERROR = 0, MSAL_DEPLOY_LOG_WARNING = 1, MSAL_DEPLOY_LOG_INFO = 2 };

#define MSAL_DEPLOY_UNSET (-1)  // of an option: the backend's default

typedef struct msal_deploy_segmenter msal_deploy_segmenter;

typedef struct {
    int32_t code;        // an MSAL_DEPLOY_ code; 0 after success
    char message[1020];  // one line: what is wrong, then what to do; empty after success; cut if it is longer
} msal_deploy_error;

// Receives a message of one line. Any thread may call it, several at the same time. It must not call the segmenter.
typedef void (*msal_deploy_log)(void* user, int32_t level, const char* message);

// The options of msal_deploy_open; see Options in segmenter.hpp. An option that is set but that the backend does not
// honour is a bad input.
typedef struct {
    uint64_t struct_size;
    const char* backend;  // "openvino", "onnxruntime", "tensorrt" or "tensorrt-rtx"; NULL: the first one built in
    int32_t threads;      // CPU threads
    int32_t streams;      // images computed in parallel
    int32_t device;       // index of the CUDA device
    int32_t shapes;       // image shapes for which the compiled graph is kept
    const char* cache;    // folder for what is compiled; NULL: unset
    int32_t cuda_graphs;  // 1: on, 0: off
    int32_t reserved;
    msal_deploy_log log;  // NULL: nothing is logged; valid, like log_user, until msal_deploy_close returns
    void* log_user;       // the first argument of `log`
} msal_deploy_options;

// `height` rows of `width` pixels. The pixels are the caller's and stay unchanged.
typedef struct {
    const uint8_t* data;  // the first pixel; for a region of a larger image, the first pixel of the region
    uint64_t height;
    uint64_t width;
    uint64_t row_bytes;  // from the beginning of one row to the next; 0: no gaps
    int32_t format;      // MSAL_DEPLOY_RGB, …
    int32_t reserved;    // 0
} msal_deploy_image;

// How an image is divided; see Tiling in image.hpp.
typedef struct {
    uint64_t struct_size;
    uint64_t tile;     // largest height and width of a tile
    uint64_t overlap;  // least number of pixels that neighbouring tiles share
    uint64_t batch;    // tiles per inference
} msal_deploy_tiling;

// The parameters of msal_deploy_labels; see Separation in nuclei.hpp.
typedef struct {
    uint64_t struct_size;
    double microns_per_pixel;
    double min_area;
    double max_hole;
    double smoothing;
    double saddle;
    const float* levels;  // NULL if level_count is 0
    uint64_t level_count;
    float threshold;
    int32_t reserved;
} msal_deploy_separation;

// The sizes that a graph accepts along one axis: multiples of `multiple` from `min` to `max`.
typedef struct {
    uint64_t min;
    uint64_t max;
    uint64_t multiple;
} msal_deploy_axis;

// What the manifest says about the graph.
typedef struct {
    uint64_t struct_size;
    msal_deploy_axis batch;
    msal_deploy_axis height;
    msal_deploy_axis width;
    double microns_per_pixel;  // resolution of the training images
    float threshold;           // a pixel belongs to a nucleus if its probability is at least this
    int32_t reserved;
} msal_deploy_spec;

// Set every field to the default. size: sizeof(*options) and so on. NULL does nothing.
MSAL_DEPLOY_API void msal_deploy_options_init(msal_deploy_options* options, uint64_t size);
MSAL_DEPLOY_API void msal_deploy_tiling_init(msal_deploy_tiling* tiling, uint64_t size);
MSAL_DEPLOY_API void msal_deploy_separation_init(msal_deploy_separation* separation, uint64_t size);

// Returns the version of the library, such as "0.1.0". It is valid as long as the library is loaded.
MSAL_DEPLOY_API const char* msal_deploy_version(void);

// Returns the name of a backend that the library was built with, from 0 on, the default first; NULL beyond the last.
MSAL_DEPLOY_API const char* msal_deploy_backend(uint64_t index);

// Opens a graph of a bundle; see Segmenter::open. Writes the segmenter, or NULL after an error. options: may be NULL.
MSAL_DEPLOY_API int32_t msal_deploy_open(const char* folder, const char* precision, const msal_deploy_options* options,
                                         msal_deploy_segmenter** segmenter, msal_deploy_error* error);

// Frees a segmenter. NULL does nothing.
MSAL_DEPLOY_API void msal_deploy_close(msal_deploy_segmenter* segmenter);

// Returns the name of the engine, such as "openvino:int8", valid until the segmenter is closed; "" for NULL.
MSAL_DEPLOY_API const char* msal_deploy_engine(const msal_deploy_segmenter* segmenter);

// Writes what the manifest says. size: sizeof(*spec).
MSAL_DEPLOY_API int32_t msal_deploy_get_spec(const msal_deploy_segmenter* segmenter, msal_deploy_spec* spec,
                                             uint64_t size, msal_deploy_error* error);

// Gets ready for images of a shape now, so that later calls do not wait for it; see Segmenter::prepare.
MSAL_DEPLOY_API int32_t msal_deploy_prepare(const msal_deploy_segmenter* segmenter, uint64_t batch, uint64_t height,
                                            uint64_t width, msal_deploy_error* error);

// Segments one image of any size. Writes height × width probabilities, row by row.
// tiling: NULL for the default. count: floats that `probability` has room for.
MSAL_DEPLOY_API int32_t msal_deploy_segment(const msal_deploy_segmenter* segmenter, const msal_deploy_image* image,
                                            const msal_deploy_tiling* tiling, float* probability, uint64_t count,
                                            msal_deploy_error* error);

// Segments `number` images of any sizes. Writes their probabilities one image after the other.
MSAL_DEPLOY_API int32_t msal_deploy_segment_images(const msal_deploy_segmenter* segmenter,
                                                   const msal_deploy_image* images, uint64_t number,
                                                   const msal_deploy_tiling* tiling, float* probability, uint64_t count,
                                                   msal_deploy_error* error);

// Segments a batch of RGB images without gaps in one pass, without tiles: batch × height × width × 3 bytes. Writes
// batch × height × width probabilities. The sizes must be within the spec.
MSAL_DEPLOY_API int32_t msal_deploy_segment_batch(const msal_deploy_segmenter* segmenter, const uint8_t* rgb,
                                                  uint64_t bytes, uint64_t batch, uint64_t height, uint64_t width,
                                                  float* probability, uint64_t count, msal_deploy_error* error);

// The same in GPU memory (tensorrt, tensorrt-rtx): queues the work on `stream`, a cudaStream_t, and does not wait for
// it; see Segmenter::segment_on_device.
MSAL_DEPLOY_API int32_t msal_deploy_segment_on_device(const msal_deploy_segmenter* segmenter, const void* rgb,
                                                      uint64_t batch, uint64_t height, uint64_t width,
                                                      float* probability, void* stream, msal_deploy_error* error);

// Writes 1 for each of `count` probabilities that is at least `threshold`, and 0 for the others.
MSAL_DEPLOY_API int32_t msal_deploy_mask(const float* probability, uint64_t count, float threshold, uint8_t* mask,
                                         msal_deploy_error* error);

// Writes the nuclei of a map, height × width: 0 for the background and 1 to N for the nuclei; see labels in nuclei.hpp.
// separation: NULL for the default. labels: room for height × width numbers. nuclei: N; NULL is allowed.
MSAL_DEPLOY_API int32_t msal_deploy_labels(const float* probability, uint64_t height, uint64_t width,
                                           const msal_deploy_separation* separation, int32_t* labels, int32_t* nuclei,
                                           msal_deploy_error* error);

#ifdef __cplusplus
}
#endif

#endif
