"""Secure aggregation: the server learns the sum of the clients' numbers, and none of the numbers.

The protocol of Bonawitz et al. 2017, eprint 2017/281, figure 4, for a server that is honest but curious. `client` and
`server` are its two sides, `messages` what crosses between them.
"""
