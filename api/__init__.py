"""The controller: store, scheduler, command. It loads no torch, Ray or transformers."""
