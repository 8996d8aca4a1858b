"""What the handlers share: settings, pool, and what is known of the login."""

from __future__ import annotations

import secrets
import time

import msgspec
from msgspec import Struct

from proxy.cli.counting import Counter
from proxy.cli.pool import Pool
from proxy.cli.unproven import UNPROVEN
from proxy.dialects import NoLookup, Rules
from proxy.http.accounts import Accounts
from proxy.http.fallback import Fallback
from proxy.http.inspector import Inspector
from proxy.http.jobs import Jobs
from proxy.http.metrics import Snapshot
from proxy.http.store import Kept, limits
from proxy.keys.keyring import Keyring
from proxy.protocol import models
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.models import Abilities
from proxy.settings import Settings
from proxy.store.lookup import StoredItems
from proxy.store.store import Store


class LoginSeen(Struct, frozen=True):
    """What real answers have said of the login. Times in seconds since 1970; None: not yet."""

    last_success: float | None = None
    last_failure: float | None = None

    @property
    def works(self) -> bool | None:
        if self.last_failure is not None and self.last_failure > (self.last_success or 0.0):
            return False
        return None if self.last_success is None else True


class Service:
    """One per server. `secret`: what it signs with; without one, what is signed is known for its own lifetime.

    `store`: where responses are kept; without one in memory, unless the settings turn that off.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        cli_version: str,
        login_method: str,
        *,
        demo: bool = False,
        accounts: Accounts | None = None,
        keyring: Keyring | None = None,
        inspector: Inspector | None = None,
        secret: bytes | None = None,
        store: Store | None = None,
    ) -> None:
        self.settings = settings
        self.inspector = inspector or Inspector()
        # What answers when the plan is used up.
        self.fallback: Fallback | None = None
        self.keyring = keyring or Keyring(settings.api_keys)
        self.pool = pool
        self.counter = Counter(pool)
        self.cli_version = cli_version
        self.login_method = login_method
        self.demo = demo
        self.accounts = accounts or Accounts()
        self.accounts.metrics.watch(self._snapshot)
        if store is None and settings.store != "off":
            store = Store(None, limits(settings))
        self.store = store
        self.kept = Kept(store)
        self.jobs = Jobs(self.accounts)
        self.fingerprint = f"claude-code-{cli_version}{'-demo' if demo else ''}"
        self.login = LoginSeen()
        self.rules = Rules(
            self.model_for,
            self.abilities_of,
            settings.native,
            settings.strict_params,
            settings.reasoning,
            settings.web_search,
            secret=secrets.token_bytes() if secret is None else secret,
            signed=None if settings.reasoning_format == "text" else settings.reasoning_format,
            # As the CLI has it for each: with a subscription an hour costs no more.
            cache_ttl="1h" if settings.login == "subscription" else None,
        )
        self._targets = {name.name: name.target for name in settings.models}

    def rules_for(self, owner: str) -> Rules:
        """The rules for a request by the key of that name."""
        lookup = NoLookup() if self.store is None else StoredItems(self.store, owner, self.settings.max_body)
        return msgspec.structs.replace(self.rules, owner=owner, lookup=lookup)

    def _snapshot(self) -> Snapshot:
        accounts = self.accounts
        worth = None if accounts.ledger is None else accounts.ledger.estimate
        counts = dict(UNPROVEN.counts)
        return Snapshot(
            self.pool.counts,
            accounts.allowance,
            accounts.lost,
            worth,
            self.cli_version,
            counts,
            self.pool.plan_limits.ends,
        )

    def reload(self, settings: Settings) -> None:
        """Offer these settings' model names from now on."""
        self.settings = msgspec.structs.replace(self.settings, models=settings.models)
        self._targets = {name.name: name.target for name in settings.models}

    def known_models(self) -> frozenset[str]:
        """Names that the CLI is asked for as they are: those that it lists itself, and the targets of the settings."""
        listed = {name for model in self.pool.warm_pool.models for name in (model.value, model.resolvedModel)}
        return frozenset((listed | set(self._targets.values())) - {"", "default"})

    def model_for(self, name: str) -> str:
        """What the CLI is asked for when a client asks for `name`."""
        return models.resolve(self._target(name), self.known_models())

    def is_claude(self, name: str) -> bool:
        """Whether the name means a model of Claude at all."""
        return models.claude_model(self._target(name), self.known_models()) is not None

    def _target(self, name: str) -> str:
        """What the settings map the name to; the name itself where they do not."""
        bare = models.bare(name.strip())
        return self._targets.get(bare) or self._targets.get(models.untagged(bare), bare)

    def abilities_of(self, model: str) -> Abilities:
        """What the CLI has said of the model that it is asked for."""
        for listed in self.pool.warm_pool.models:
            if model in (listed.value, listed.resolvedModel):
                return models.abilities(
                    listed.resolvedModel or model,
                    tuple(listed.supportedEffortLevels),
                    thinking_off=listed.supportsThinkingOff,
                )
        return models.abilities(model)

    def succeeded(self) -> None:
        self.login = LoginSeen(time.time(), self.login.last_failure)

    def failed(self, failure: Failure) -> None:
        # That a model is not permitted says nothing of a login by which others have answered.
        if failure.kind is Kind.NOT_LOGGED_IN or (failure.kind is Kind.NO_PERMISSION and not self.login.last_success):
            self.login = LoginSeen(self.login.last_success, time.time())
