"""Federated training: the rounds, the server's state and the clients, and the pieces that an algorithm is made of."""
