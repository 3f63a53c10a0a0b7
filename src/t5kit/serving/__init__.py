"""T5 over HTTP: engine processes behind one event loop, and a page to look at.

`engine` and `served_model` need nothing but t5kit; `app` and what it imports need the extra "serve".
"""
