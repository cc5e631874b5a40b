"""Other programs that repair loss, beside this one, over the same emulated link: `make lab-peers`."""
