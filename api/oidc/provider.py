"""The issuer: where it wants people sent, and whom the code that comes back stands for."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from api.oidc.login_state import LoginState
from service.errors import LoginFailed
from service.settings import OidcSettings
from service.tenancy.identities import Identity

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a key pair only: with a shared secret, or none, anybody could vouch."""
_LEEWAY_S = 60
_TIMEOUT_S = 10.0
_KEPT_S = 3600.0
_REFETCH_KEYS_S = 30.0
"""An unknown key makes the keys be read again, but not more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoints:
    """What the issuer says of itself."""

    authorization: str
    token: str
    jwks: str
    auth_methods: Sequence[str]
    read_at: float


class OidcProvider:
    """One issuer; keeps its endpoints and keys for an hour."""

    def __init__(self, settings: OidcSettings, redirect_uri: str, *, http: httpx.AsyncClient | None = None) -> None:
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._http = http or httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._endpoints: _Endpoints | None = None
        self._keys: KeySet | None = None
        self._keys_read_at = 0.0

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def authorization_url(self, login: LoginState) -> str:
        """Where the browser is sent. Raises LoginFailed if the issuer does not answer."""
        endpoints = await self._discover()
        return str(
            prepare_grant_uri(
                endpoints.authorization,
                client_id=self._settings.client_id,
                response_type="code",
                redirect_uri=self._redirect_uri,
                scope=self._settings.scopes,
                state=login.state,
                nonce=login.nonce,
                code_challenge=create_s256_code_challenge(login.verifier),
                code_challenge_method="S256",
            )
        )

    async def identify(self, code: str, login: LoginState) -> Identity:
        """Whom the code stands for. Raises LoginFailed for whatever is wrong with the answer or the ID token."""
        endpoints = await self._discover()
        answer = await self._exchange(endpoints, code, login)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise LoginFailed("the issuer's answer holds no ID token; does the client have the scope openid?")
        claims = await self._verified(endpoints, token, login, answer.get("access_token"))
        return self._identity(claims)

    async def _exchange(self, endpoints: _Endpoints, code: str, login: LoginState) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": login.verifier,
        }
        client_id, secret = str(self._settings.client_id), self._settings.client_secret
        auth = None
        if secret is None:
            form["client_id"] = client_id
        elif "client_secret_basic" in endpoints.auth_methods:
            auth = httpx.BasicAuth(client_id, secret.get_secret_value())
        else:
            form |= {"client_id": client_id, "client_secret": secret.get_secret_value()}
        return await self._json("POST", endpoints.token, data=form, auth=auth)

    async def _verified(
        self, endpoints: _Endpoints, token: str, login: LoginState, access_token: Any
    ) -> dict[str, Any]:
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": self._settings.issuer},
            "aud": {"essential": True, "value": self._settings.client_id},
        }
        params = {"nonce": login.nonce, "client_id": self._settings.client_id, "access_token": access_token}
        try:
            decoded = await self._decode(endpoints, token)
            claims = CodeIDToken(decoded.claims, decoded.header, options, params)
            claims.validate(leeway=_LEEWAY_S)
        except (JoseError, ValueError) as error:
            logger.warning("id token refused", extra={"error": f"{type(error).__name__}: {error}"})
            raise LoginFailed(f"the issuer's ID token is not valid: {error}") from error
        return dict(claims)

    async def _decode(self, endpoints: _Endpoints, token: str) -> jwt.Token:
        keys = await self._read_keys(endpoints, at_most_s=_KEPT_S)
        try:
            return jwt.decode(token, keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            # It may be signed by a key that is newer than what we know.
            keys = await self._read_keys(endpoints, at_most_s=_REFETCH_KEYS_S)
            return jwt.decode(token, keys, algorithms=ALGORITHMS)

    async def _read_keys(self, endpoints: _Endpoints, *, at_most_s: float) -> KeySet:
        if self._keys is None or time.monotonic() - self._keys_read_at > at_most_s:
            document = await self._json("GET", endpoints.jwks)
            self._keys = KeySet.import_key_set(cast(Any, document))
            self._keys_read_at = time.monotonic()
        return self._keys

    async def _discover(self) -> _Endpoints:
        if self._endpoints is not None and time.monotonic() - self._endpoints.read_at < _KEPT_S:
            return self._endpoints
        issuer = str(self._settings.issuer)
        document = await self._json("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:
            raise LoginFailed(f"the issuer calls itself {document.get('issuer')!r}; SEDRAY_OIDC_ISSUER says {issuer!r}")
        try:
            self._endpoints = _Endpoints(
                authorization=document["authorization_endpoint"],
                token=document["token_endpoint"],
                jwks=document["jwks_uri"],
                auth_methods=document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]),
                read_at=time.monotonic(),
            )
        except KeyError as error:
            raise LoginFailed(f"the issuer's description lacks {error}") from error
        return self._endpoints

    async def _json(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, url, headers={"Accept": "application/json"}, **options)
            document = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            logger.warning("issuer does not answer", extra={"url": url, "error": f"{type(error).__name__}: {error}"})
            raise LoginFailed("the issuer of log-ins does not answer as it should; log in with a token") from error
        if response.is_error or not isinstance(document, dict):
            reason = document.get("error") if isinstance(document, dict) else None
            logger.warning("issuer refuses", extra={"url": url, "http_status": response.status_code, "error": reason})
            raise LoginFailed(f"the issuer of log-ins refuses: {reason or response.status_code}")
        return document

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        groups = claims.get(self._settings.groups_claim, [])
        named = (claims.get(name) for name in (self._settings.name_claim, "email", "sub"))
        return Identity(
            issuer=str(self._settings.issuer),
            subject=str(claims["sub"]),
            name=next(str(name) for name in named if name),
            groups=frozenset(str(group) for group in groups) if isinstance(groups, list) else frozenset(),
        )
