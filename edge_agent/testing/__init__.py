"""Fakes that ship: a drafter, a transport and a generator without model or network."""
