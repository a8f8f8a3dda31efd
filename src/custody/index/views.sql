-- The views a person's own SQL sees; docs/reference/sql-views.md says what is in them. Words and ids are looked
-- up only for the columns that a query names. `main` is the index, whose tables nothing else can reach.

-- name: runs
SELECT
  lower(hex(c.id)) AS id,
  c.name AS name,
  (SELECT word FROM main.words WHERE id = c.agent) AS agent,
  (SELECT word FROM main.words WHERE id = c.caller) AS caller,
  (SELECT word FROM main.words WHERE id = c.channel) AS channel,
  (SELECT word FROM main.words WHERE id = c.session) AS session_id,
  (SELECT word FROM main.words WHERE id = c.workspace) AS workspace,
  lower(hex(c.parent_id)) AS parent_run_id,
  c.external_id AS external_id,
  (SELECT word FROM main.words WHERE id = c.outcome) AS outcome,
  (SELECT word FROM main.words WHERE id = c.reason) AS reason,
  c.passed AS passed,
  {c.at_us} AS started_at,
  c.at_us AS started_at_us,
  {c.at_us + c.elapsed_us} AS finished_at,
  c.at_us + c.elapsed_us AS finished_at_us,
  c.elapsed_us AS duration_us,
  (SELECT count(*) FROM main.calls k WHERE k.run = c.row AND k.at_us > 0) AS calls,
  (SELECT count(*) FROM main.steps s WHERE s.run = c.row) AS steps,
  (SELECT sum(s.input_tokens) FROM main.steps s WHERE s.run = c.row) AS input_tokens,
  (SELECT sum(s.output_tokens) FROM main.steps s WHERE s.run = c.row) AS output_tokens,
  (SELECT sum(s.cost_nano_usd) FROM main.steps s WHERE s.run = c.row) AS cost_nano_usd,
  (SELECT sum(s.cost_nano_usd) FROM main.steps s WHERE s.run = c.row) / 1e9 AS cost_usd
FROM main.runs c WHERE c.at_us > 0;

-- name: calls
SELECT
  lower(hex(c.id)) AS id,
  (SELECT lower(hex(r.id)) FROM main.runs r WHERE r.row = c.run) AS run_id,
  c.position AS position,
  (SELECT word FROM main.words WHERE id = c.tool) AS tool,
  (SELECT word FROM main.words WHERE id = c.effect) AS effect,
  (SELECT word FROM main.words WHERE id = c.door) AS door,
  (SELECT word FROM main.words WHERE id = c.agent) AS agent,
  (SELECT word FROM main.words WHERE id = c.caller) AS caller,
  (SELECT word FROM main.words WHERE id = c.session) AS session_id,
  (SELECT word FROM main.words WHERE id = c.workspace) AS workspace,
  lower(hex(c.parent_id)) AS parent_id,
  lower(hex(c.step_id)) AS step_id,
  c.external_id AS external_id,
  c.proposal_id AS proposal_id,
  c.action_id AS action_id,
  c.attempt AS attempt,
  (SELECT word FROM main.words WHERE id = c.connection) AS connection,
  c.dry_run AS dry_run,
  (SELECT word FROM main.words WHERE id = c.outcome) AS outcome,
  c.passed AS passed,
  (SELECT word FROM main.words WHERE id = c.error) AS error_pattern,
  {c.at_us} AS asked_at,
  c.at_us AS asked_at_us,
  {c.at_us + c.elapsed_us} AS finished_at,
  c.at_us + c.elapsed_us AS finished_at_us,
  c.latency_us AS latency_us
FROM main.calls c WHERE c.at_us > 0;

-- name: steps
SELECT
  lower(hex(c.id)) AS id,
  lower(hex(r.id)) AS run_id,
  c.position AS position,
  c.iteration AS iteration,
  (SELECT word FROM main.words WHERE id = coalesce(c.agent, r.agent)) AS agent,
  (SELECT word FROM main.words WHERE id = r.caller) AS caller,
  (SELECT word FROM main.words WHERE id = r.session) AS session_id,
  (SELECT word FROM main.words WHERE id = r.workspace) AS workspace,
  lower(hex(c.parent_id)) AS parent_id,
  c.external_id AS external_id,
  (SELECT word FROM main.words WHERE id = c.model) AS model,
  (SELECT word FROM main.words WHERE id = c.requested_model) AS requested_model,
  c.responded AS responded,
  (SELECT word FROM main.words WHERE id = c.finish_reason) AS finish_reason,
  {c.at_us} AS at,
  c.at_us AS at_us,
  c.model_us AS model_us,
  c.since_previous_us AS since_previous_us,
  c.input_tokens AS input_tokens,
  c.output_tokens AS output_tokens,
  c.reasoning_tokens AS reasoning_tokens,
  c.cache_read_tokens AS cache_read_tokens,
  c.cache_write_tokens AS cache_write_tokens,
  c.cost_nano_usd AS cost_nano_usd,
  c.cost_nano_usd / 1e9 AS cost_usd
FROM main.steps c JOIN main.runs r ON r.row = c.run;

-- name: events
SELECT
  lower(hex(c.id)) AS id,
  (SELECT word FROM main.words WHERE id = c.name) AS name,
  (SELECT lower(hex(r.id)) FROM main.runs r WHERE r.row = c.run) AS run_id,
  lower(hex(c.call_id)) AS call_id,
  {c.at_us} AS at,
  c.at_us AS at_us
FROM main.events c;
