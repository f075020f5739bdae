// Items for launches: those of a key go together, keys and items in the order in which they came.
#pragma once

#include <vector>

namespace fusedstep::python {

template <class Key, class Item>
class Batches {
 public:
  struct Batch {
    Key key;
    std::vector<Item> items;
  };
  void clear() {
    for (Batch& batch : batches_) batch.items.clear();
  }
  void add(const Key& key, const Item& item) {
    auto batch = batches_.begin();
    while (batch != batches_.end() && batch->key != key) ++batch;
    if (batch == batches_.end()) batch = batches_.insert(batch, {key, {}});
    batch->items.push_back(item);
  }
  auto begin() const { return batches_.begin(); }
  auto end() const { return batches_.end(); }

 private:
  std::vector<Batch> batches_;
};

}  // namespace fusedstep::python
