"""The lab: a seeded link emulator in virtual time and as a UDP proxy, and the demo."""
