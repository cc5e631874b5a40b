"""`relay doctor`: facts are looked up in one place (`look`, `probe`), checks are pure functions of them."""
