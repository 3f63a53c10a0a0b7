"""Why a model answers as it does: whom it attends to, and what each input word adds to each output word."""
