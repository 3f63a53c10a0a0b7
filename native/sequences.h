// What a runtime keeps between calls: encoded prompts and decoder slots with their caches.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace t5kit {

struct Adapter;

// The sizes of a decoder's caches.
struct CacheShape {
    int num_layers = 0;
    int num_heads = 0;
    int width = 0;  // of a head

    int value_lanes() const { return round_up(width, kPageTokens); }
    // Floats of one head's keys ([width][16 tokens] a page) and of its values ([token][value_lanes]), for whole pages.
    size_t key_floats(int num_pages) const { return static_cast<size_t>(num_pages) * width * kPageTokens; }
    size_t value_floats(int num_pages) const { return static_cast<size_t>(num_pages) * kPageTokens * value_lanes(); }
    size_t page_floats() const { return static_cast<size_t>(num_layers) * num_heads * (key_floats(1) + value_floats(1)); }
};

// Cross-attention keys and values of one prompt, for every layer and head.
struct Prompt {
    int num_references = 1;
    int length = 0;
    Buffer<float> data;  // [layer][head][keys of all pages, then values]
    std::shared_ptr<const Adapter> adapter;  // that it was encoded with, or null

    int num_pages() const { return (length + kPageTokens - 1) / kPageTokens; }
    float* keys(const CacheShape& shape, int layer, int head) {
        const size_t head_floats = shape.key_floats(num_pages()) + shape.value_floats(num_pages());
        return data.data() + (static_cast<size_t>(layer) * shape.num_heads + head) * head_floats;
    }
    float* values(const CacheShape& shape, int layer, int head) { return keys(shape, layer, head) + shape.key_floats(num_pages()); }
};

// Sixteen tokens of self-attention keys and values of all layers and heads, shared by all slots with this past.
struct Page {
    int num_references = 0;
    int num_filled = 0;  // tokens that someone has written; a slot that stands here may append without copying
    Buffer<float> data;  // [layer][head][keys, then values]

    float* keys(const CacheShape& shape, int layer, int head) {
        return data.data() + (static_cast<size_t>(layer) * shape.num_heads + head) * (shape.key_floats(1) + shape.value_floats(1));
    }
    float* values(const CacheShape& shape, int layer, int head) { return keys(shape, layer, head) + shape.key_floats(1); }
};

struct Slot {
    int handle = 0;
    int length = 0;
    std::vector<Page*> pages;
};

// Owner of all prompts, slots and pages. Every method raises EngineFailure for a name that is not open, before it changes
// anything.
class Sequences {
public:
    explicit Sequences(const CacheShape& shape) : shape_(shape) {}

    const CacheShape& shape() const { return shape_; }

    int add_prompt(int length);  // with one reference
    Prompt& prompt(int handle);
    Slot& slot(int name);

    void retain(const std::vector<int>& handles);
    void release(const std::vector<int>& handles);
    std::vector<int> open_slots(const std::vector<int>& handles);
    void close_slots(const std::vector<int>& slots);
    std::vector<int> fork_slots(const std::vector<int>& slots);
    void reorder_slots(const std::vector<int>& slots, const std::vector<int>& parents);
    void rollback_slots(const std::vector<int>& slots, const std::vector<int>& lengths);

    // Makes room for `count` more tokens that this slot alone will write, without counting them yet.
    void reserve(Slot& slot, int count);

    void clear();

    // Bytes of the prompts and of the pages that slots stand on.
    size_t held_bytes() const { return held_floats() * sizeof(float); }
    // Bytes of pages that nobody stands on, kept for those to come: with the held ones never more than were held at a time.
    size_t spare_bytes() const { return free_pages_.size() * shape_.page_floats() * sizeof(float); }

private:
    Page* new_page();
    void drop_page(Page* page);
    void cut(Slot& slot, int length);
    int new_name();
    size_t held_floats() const { return prompt_floats_ + (pages_.size() - free_pages_.size() - bare_pages_.size()) * shape_.page_floats(); }
    void make_room(size_t floats);

    CacheShape shape_;
    int last_name_ = 0;
    size_t prompt_floats_ = 0;
    size_t most_held_floats_ = 0;
    std::unordered_map<int, Prompt> prompts_;
    std::unordered_map<int, Slot> slots_;
    std::vector<std::unique_ptr<Page>> pages_;  // all there are
    std::vector<Page*> free_pages_;             // that nobody stands on
    std::vector<Page*> bare_pages_;             // the same, their memory given back
};

}  // namespace t5kit
