"""What else clients of local servers ask for: tokens, properties, embeddings; and what is out of scope."""

from openai_gateway.passed_on.embeddings import embeddings_router
from openai_gateway.passed_on.scope import out_of_scope_router
from openai_gateway.passed_on.tokens import tokens_router

__all__ = ["embeddings_router", "out_of_scope_router", "tokens_router"]
