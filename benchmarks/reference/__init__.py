"""The reference's two programs, federated and baseline, written anew from their description to compare speed."""
