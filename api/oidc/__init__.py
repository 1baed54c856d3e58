"""Log-in at the page by an OpenID Connect issuer: authorization code flow with PKCE, state and nonce. Off by default.

/login/oidc ──cookie with the state──> issuer ──code──> /login/oidc/callback ──> ID token verified ──> page session
"""
