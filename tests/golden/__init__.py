"""State directories that earlier versions wrote, and what makes them."""
