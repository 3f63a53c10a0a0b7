#include "sequences.h"

#include <algorithm>
#include <limits>

#include "check.h"

namespace t5kit {

// Names begin again at 1 when they run out, past those in use: at a thousand a second they last 25 days.
int Sequences::new_name() {
    do {
        last_name_ = last_name_ == std::numeric_limits<int>::max() ? 1 : last_name_ + 1;
    } while (prompts_.count(last_name_) || slots_.count(last_name_));
    return last_name_;
}

int Sequences::add_prompt(int length) {
    Prompt prompt;
    prompt.length = length;
    const size_t head_floats = shape_.key_floats(prompt.num_pages()) + shape_.value_floats(prompt.num_pages());
    const size_t floats = head_floats * shape_.num_layers * shape_.num_heads;
    make_room(floats);
    prompt.data.grow(floats);
    const int handle = new_name();
    prompts_.emplace(handle, std::move(prompt));
    prompt_floats_ += floats;
    most_held_floats_ = std::max(most_held_floats_, held_floats());
    return handle;
}

// Called before more is held: spare pages give way, so that all memory together is what was held at the most.
void Sequences::make_room(size_t floats) {
    const size_t coming = held_floats() + floats, most = std::max(most_held_floats_, coming);
    while (!free_pages_.empty() && coming + free_pages_.size() * shape_.page_floats() > most) {
        free_pages_.back()->data = Buffer<float>();
        bare_pages_.push_back(free_pages_.back());
        free_pages_.pop_back();
    }
}

Prompt& Sequences::prompt(int handle) {
    const auto found = prompts_.find(handle);
    T5KIT_CHECK(found != prompts_.end(), "Handle " << handle << " is not open in this runtime.");
    return found->second;
}

Slot& Sequences::slot(int name) {
    const auto found = slots_.find(name);
    T5KIT_CHECK(found != slots_.end(), "Slot " << name << " is not open in this runtime.");
    return found->second;
}

void Sequences::retain(const std::vector<int>& handles) {
    for (int handle : handles) prompt(handle);
    for (int handle : handles) ++prompt(handle).num_references;
}

void Sequences::release(const std::vector<int>& handles) {
    std::unordered_map<int, int> counts;
    for (int handle : handles) {
        T5KIT_CHECK(++counts[handle] <= prompt(handle).num_references, "Handle " << handle << " is released more often than it is held.");
    }
    for (int handle : handles) {
        const auto found = prompts_.find(handle);
        if (--found->second.num_references == 0) {
            prompt_floats_ -= found->second.data.size();
            prompts_.erase(found);
        }
    }
}

std::vector<int> Sequences::open_slots(const std::vector<int>& handles) {
    retain(handles);
    std::vector<int> names;
    for (int handle : handles) {
        names.push_back(new_name());
        slots_[names.back()].handle = handle;
    }
    return names;
}

void Sequences::close_slots(const std::vector<int>& slots) {
    std::vector<int> sorted = slots;
    std::sort(sorted.begin(), sorted.end());
    T5KIT_CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(), "A slot stands twice among those to close.");
    for (int name : slots) slot(name);
    for (int name : slots) {
        Slot& closed = slot(name);
        cut(closed, 0);
        release({closed.handle});
        slots_.erase(name);
    }
}

std::vector<int> Sequences::fork_slots(const std::vector<int>& slots) {
    std::vector<int> handles;
    for (int name : slots) handles.push_back(slot(name).handle);
    const std::vector<int> forks = open_slots(handles);
    for (size_t i = 0; i < slots.size(); ++i) {
        const Slot& parent = slot(slots[i]);
        Slot& fork = slot(forks[i]);
        fork.length = parent.length;
        fork.pages = parent.pages;
        for (Page* page : fork.pages) ++page->num_references;
    }
    return forks;
}

void Sequences::reorder_slots(const std::vector<int>& slots, const std::vector<int>& parents) {
    T5KIT_CHECK(slots.size() == parents.size(), "Got " << slots.size() << " slots and " << parents.size() << " parents.");
    for (size_t i = 0; i < slots.size(); ++i) {
        T5KIT_CHECK(slot(slots[i]).handle == slot(parents[i]).handle,
                    "Slot " << slots[i] << " cannot continue slot " << parents[i] << ", which stands on another prompt.");
    }
    std::vector<Slot> pasts;
    for (int parent : parents) {
        pasts.push_back(slot(parent));
        for (Page* page : pasts.back().pages) ++page->num_references;
    }
    for (size_t i = 0; i < slots.size(); ++i) {
        Slot& target = slot(slots[i]);
        cut(target, 0);
        target = std::move(pasts[i]);
    }
}

void Sequences::rollback_slots(const std::vector<int>& slots, const std::vector<int>& lengths) {
    T5KIT_CHECK(slots.size() == lengths.size(), "Got " << slots.size() << " slots and " << lengths.size() << " lengths.");
    for (size_t i = 0; i < slots.size(); ++i) {
        const int held = slot(slots[i]).length;
        T5KIT_CHECK(lengths[i] >= 0 && lengths[i] <= held, "Slot " << slots[i] << " holds " << held << " tokens and cannot be cut to " << lengths[i] << ".");
    }
    for (size_t i = 0; i < slots.size(); ++i) cut(slot(slots[i]), lengths[i]);
}

void Sequences::reserve(Slot& slot, int count) {
    cut(slot, slot.length);  // pages of a step that failed
    const int offset = slot.length % kPageTokens;
    if (offset) {
        // Siblings that share a last page write the same place: the first goes on in it, the others copy what is common.
        Page*& last = slot.pages.back();
        if (last->num_references > 1 && last->num_filled > offset) {
            Page* copy = new_page();
            std::copy_n(last->data.data(), shape_.page_floats(), copy->data.data());
            drop_page(last);
            last = copy;
        }
        last->num_filled = std::min(kPageTokens, offset + count);
    }
    const int num_pages = (slot.length + count + kPageTokens - 1) / kPageTokens;
    while (static_cast<int>(slot.pages.size()) < num_pages) {
        slot.pages.push_back(new_page());
        slot.pages.back()->num_filled = std::min(kPageTokens, slot.length + count - kPageTokens * (static_cast<int>(slot.pages.size()) - 1));
    }
}

void Sequences::clear() {
    prompts_.clear();
    slots_.clear();
    free_pages_.clear();
    bare_pages_.clear();
    pages_.clear();
    prompt_floats_ = 0;
}

Page* Sequences::new_page() {
    if (free_pages_.empty()) {
        if (bare_pages_.empty()) {
            pages_.push_back(std::make_unique<Page>());
            bare_pages_.push_back(pages_.back().get());
            free_pages_.reserve(pages_.size());  // so that giving a page back cannot fail
            bare_pages_.reserve(pages_.size());
        }
        bare_pages_.back()->data.grow(shape_.page_floats());
        free_pages_.push_back(bare_pages_.back());
        bare_pages_.pop_back();
    }
    Page* page = free_pages_.back();
    free_pages_.pop_back();
    page->num_references = 1;
    page->num_filled = 0;
    most_held_floats_ = std::max(most_held_floats_, held_floats());
    return page;
}

void Sequences::drop_page(Page* page) {
    if (--page->num_references == 0) free_pages_.push_back(page);
}

void Sequences::cut(Slot& slot, int length) {
    const size_t num_pages = (length + kPageTokens - 1) / kPageTokens;
    while (slot.pages.size() > num_pages) {
        drop_page(slot.pages.back());
        slot.pages.pop_back();
    }
    slot.length = length;
}

}  // namespace t5kit
