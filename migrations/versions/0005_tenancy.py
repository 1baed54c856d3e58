"""Roles in projects, scopes of tokens, the audit log, webhooks.

Whoever had a token could do everything: everybody stays a maintainer of every project, and the tokens keep all scopes.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("projects", sa.Column("description", sa.Text(), server_default="", nullable=False))
    op.add_column("projects", sa.Column("archived_at", _TIME, nullable=True))
    _extend_users()
    _extend_tokens()
    _create_memberships()
    _create_audit_log()
    _create_webhooks()


def downgrade() -> None:
    for table in ("webhook_deliveries", "webhooks", "audit_log", "memberships"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change_of_audit_log()")
    for column in ("last_used_at", "purpose", "project_id", "scope"):
        op.drop_column("api_tokens", column)
    for column in ("disabled_at", "oidc_subject", "oidc_issuer", "home_project_id", "is_admin", "kind"):
        op.drop_column("users", column)
    for column in ("archived_at", "description"):
        op.drop_column("projects", column)


def _extend_users() -> None:
    op.add_column("users", sa.Column("kind", sa.Text(), server_default="person", nullable=False))
    op.add_column("users", sa.Column("is_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    for name in ("home_project_id", "oidc_issuer", "oidc_subject"):
        op.add_column("users", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("users", sa.Column("disabled_at", _TIME, nullable=True))
    op.create_foreign_key(op.f("fk_users_home_project_id"), "users", "projects", ["home_project_id"], ["id"])
    op.create_unique_constraint(op.f("uq_users_oidc_issuer_oidc_subject"), "users", ["oidc_issuer", "oidc_subject"])
    op.create_check_constraint(op.f("ck_users_kind"), "users", "kind IN ('person','service')")
    op.create_check_constraint(op.f("ck_users_home"), "users", "(kind = 'service') = (home_project_id IS NOT NULL)")
    op.create_check_constraint(op.f("ck_users_admin"), "users", "kind = 'person' OR NOT is_admin")
    op.create_check_constraint(op.f("ck_users_identity"), "users", "(oidc_issuer IS NULL) = (oidc_subject IS NULL)")


def _extend_tokens() -> None:
    op.add_column("api_tokens", sa.Column("scope", sa.Text(), server_default="admin", nullable=False))
    op.alter_column("api_tokens", "scope", server_default=None)
    op.add_column("api_tokens", sa.Column("project_id", sa.Text(), nullable=True))
    op.add_column("api_tokens", sa.Column("purpose", sa.Text(), server_default="api", nullable=False))
    op.add_column("api_tokens", sa.Column("last_used_at", _TIME, nullable=True))
    op.create_foreign_key(op.f("fk_api_tokens_project_id"), "api_tokens", "projects", ["project_id"], ["id"])
    op.create_check_constraint(op.f("ck_api_tokens_scope"), "api_tokens", "scope IN ('read','write','admin')")
    op.create_check_constraint(op.f("ck_api_tokens_purpose"), "api_tokens", "purpose IN ('api','page')")


def _create_memberships() -> None:
    op.create_table(
        "memberships",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), server_default="manual", nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.CheckConstraint("role IN ('viewer','member','maintainer')", name=op.f("ck_memberships_role")),
        sa.CheckConstraint("source IN ('manual','oidc')", name=op.f("ck_memberships_source")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_memberships_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "project_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_project_id"), "memberships", ["project_id"])
    op.execute(
        "INSERT INTO memberships (user_id, project_id, role) "
        "SELECT users.id, projects.id, 'maintainer' FROM users CROSS JOIN projects"
    )


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ts", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target_kind", sa.Text(), nullable=False),
        sa.Column("target_id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.CheckConstraint("actor_kind IN ('person','service','system')", name=op.f("ck_audit_log_actor_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_project", "audit_log", ["project_id", "id"])
    op.create_index("ix_audit_log_target", "audit_log", ["target_kind", "target_id", "id"])
    # What was written stays as it was, whoever asks through this schema.
    op.execute(
        """
        CREATE FUNCTION refuse_change_of_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the audit log takes new entries only' USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER audit_log_takes_new_entries_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit_log()"
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("secret_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("secret_rotated_at", _TIME, nullable=True),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_webhooks_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_webhooks_project_id_name")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("num_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("claimed_until", _TIME, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_answer", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.CheckConstraint("status IN ('pending','delivered','dead')", name=op.f("ck_webhook_deliveries_status")),
        sa.CheckConstraint(
            "(status = 'pending') = (finished_at IS NULL)", name=op.f("ck_webhook_deliveries_finished")
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_attempt_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id", "id"])
