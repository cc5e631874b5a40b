"""The service plane: asyncio around the packet plane and the decisions."""
