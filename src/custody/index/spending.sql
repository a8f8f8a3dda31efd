-- Every statement about what was spent, by name. The tables stand in the file of the index and are not part
-- of the view: making that anew leaves them alone (see `made` in queries.sql). `scope` is 0 for a run with
-- all below it, 1 for a session, 2 for an agent, 3 for the store; `key` says which. Times are microseconds
-- since 1970 UTC.

-- name: schema
CREATE TABLE spending_version_1 (pruned_us INTEGER NOT NULL);
INSERT INTO spending_version_1 VALUES (0);

CREATE TABLE spending_marks (
  shard INTEGER PRIMARY KEY,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  last_segment INTEGER NOT NULL,
  last_offset INTEGER NOT NULL,
  last_check INTEGER NOT NULL
);

CREATE TABLE spending_runs (
  id BLOB PRIMARY KEY,
  parent BLOB,
  session TEXT,
  agent TEXT,
  finished_us INTEGER,
  streak INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Calls between their reservation and the fold of their end. `flags` says what was seen and counted of one.
CREATE TABLE spending_calls (
  id BLOB PRIMARY KEY,
  flags INTEGER NOT NULL,
  at_us INTEGER NOT NULL,
  said BLOB NOT NULL,
  pid INTEGER,
  start_ticks INTEGER,
  place TEXT
) WITHOUT ROWID;

-- `span` 0: for ever; else the length of the bucket that begins at `start`.
CREATE TABLE spending_totals (
  scope INTEGER NOT NULL,
  key BLOB NOT NULL,
  span INTEGER NOT NULL,
  start INTEGER NOT NULL,
  calls INTEGER NOT NULL,
  writes INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  wall_us INTEGER NOT NULL,
  cpu_us INTEGER NOT NULL,
  output_bytes INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  cost_nano_usd INTEGER NOT NULL,
  files INTEGER NOT NULL,
  PRIMARY KEY (scope, key, span, start)
) WITHOUT ROWID;

CREATE TABLE spending_hosts (
  scope INTEGER NOT NULL,
  key BLOB NOT NULL,
  host BLOB NOT NULL,
  calls INTEGER NOT NULL,
  last_us INTEGER NOT NULL,
  PRIMARY KEY (scope, key, host)
) WITHOUT ROWID;

CREATE TABLE spending_same (
  key BLOB NOT NULL,
  digest BLOB NOT NULL,
  calls INTEGER NOT NULL,
  last_us INTEGER NOT NULL,
  PRIMARY KEY (key, digest)
) WITHOUT ROWID;

CREATE TABLE spending_tools (
  scope INTEGER NOT NULL,
  key BLOB NOT NULL,
  tool TEXT NOT NULL,
  effect TEXT NOT NULL,
  last_us INTEGER NOT NULL,
  PRIMARY KEY (scope, key, tool, effect)
) WITHOUT ROWID;

CREATE TABLE spending_slots (
  rule TEXT NOT NULL,
  scope INTEGER NOT NULL,
  key BLOB NOT NULL,
  at_us INTEGER NOT NULL,
  call_id BLOB NOT NULL,
  until_us INTEGER NOT NULL,
  PRIMARY KEY (rule, scope, key, at_us, call_id)
) WITHOUT ROWID;
CREATE INDEX spending_slots_by_call ON spending_slots (call_id);

CREATE TABLE spending_told (
  scope INTEGER NOT NULL,
  key BLOB NOT NULL,
  amount TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  PRIMARY KEY (scope, key, amount)
) WITHOUT ROWID;

-- name: is_made
SELECT count(*) FROM sqlite_schema WHERE name = 'spending_version_1';

-- name: old_tables
SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'spending~_%' ESCAPE '~';

-- name: forget_folded
DELETE FROM spending_marks;
DELETE FROM spending_runs;
DELETE FROM spending_totals;
DELETE FROM spending_hosts;
DELETE FROM spending_same;
DELETE FROM spending_tools;

-- name: marks
SELECT shard, segment, offset, sequence FROM spending_marks;

-- name: mark_checks
SELECT shard, last_segment, last_offset, sequence, last_check FROM spending_marks;

-- name: put_mark
INSERT OR REPLACE INTO spending_marks VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: run
SELECT parent, session, agent, streak FROM spending_runs WHERE id = ?;

-- name: put_run
INSERT INTO spending_runs (id, parent, session, agent) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET (parent, session, agent) = (excluded.parent, excluded.session, excluded.agent);

-- name: end_run
UPDATE spending_runs SET finished_us = ?2 WHERE id = ?1;

-- name: set_streak
UPDATE spending_runs SET streak = ?2 WHERE id = ?1;

-- name: call
SELECT flags, at_us, said FROM spending_calls WHERE id = ?;

-- name: put_call
INSERT INTO spending_calls (id, flags, at_us, said) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET (flags, at_us, said) = (excluded.flags, excluded.at_us, excluded.said);

-- name: drop_call
DELETE FROM spending_calls WHERE id = ?;

-- name: put_reservation
INSERT INTO spending_calls VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET (flags, at_us, said, pid, start_ticks, place)
  = (excluded.flags, excluded.at_us, excluded.said, excluded.pid, excluded.start_ticks, excluded.place);

-- name: reservations
SELECT id, at_us, pid, start_ticks, place FROM spending_calls WHERE pid IS NOT NULL AND flags & 3 = 1;

-- name: all_calls
SELECT id, pid IS NOT NULL FROM spending_calls;

-- name: add
INSERT INTO spending_totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, writes = writes + excluded.writes,
  failures = failures + excluded.failures, wall_us = wall_us + excluded.wall_us, cpu_us = cpu_us + excluded.cpu_us,
  output_bytes = output_bytes + excluded.output_bytes, tokens = tokens + excluded.tokens,
  cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd, files = files + excluded.files;

-- name: total
SELECT total(calls), total(writes), total(failures), total(wall_us), total(cpu_us), total(output_bytes),
  total(tokens), total(cost_nano_usd), total(files)
FROM spending_totals WHERE scope = ? AND key = ? AND span = ? AND start >= ? AND start < ?;

-- name: use_host
INSERT INTO spending_hosts VALUES (?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET calls = calls + 1, last_us = max(last_us, excluded.last_us);

-- name: leave_host
UPDATE spending_hosts SET calls = calls - 1 WHERE scope = ? AND key = ? AND host = ?;

-- name: forget_host
DELETE FROM spending_hosts WHERE scope = ? AND key = ? AND host = ? AND calls <= 0;

-- name: has_host
SELECT 1 FROM spending_hosts WHERE scope = ? AND key = ? AND host = ? AND last_us >= ?;

-- name: hosts
SELECT count(*) FROM spending_hosts WHERE scope = ? AND key = ? AND last_us >= ?;

-- name: count_same
INSERT INTO spending_same VALUES (?, ?, 1, ?)
ON CONFLICT DO UPDATE SET calls = calls + 1, last_us = max(last_us, excluded.last_us);

-- name: uncount_same
UPDATE spending_same SET calls = calls - 1 WHERE key = ? AND digest = ?;

-- name: same
SELECT calls FROM spending_same WHERE key = ? AND digest = ?;

-- name: used_tool
INSERT INTO spending_tools VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET last_us = max(last_us, excluded.last_us);

-- name: tools
SELECT tool, effect, last_us FROM spending_tools WHERE scope = ? AND key = ?;

-- name: tool
SELECT tool, effect, last_us FROM spending_tools WHERE scope = ? AND key = ? AND tool = ?;

-- name: take_slot
INSERT OR IGNORE INTO spending_slots VALUES (?, ?, ?, ?, ?, ?);

-- name: leave_slots
DELETE FROM spending_slots WHERE call_id = ?;

-- name: old_slots
DELETE FROM spending_slots WHERE rule = ? AND scope = ? AND key = ? AND (at_us <= ? OR at_us > ?);

-- name: nth_slot
SELECT at_us FROM spending_slots WHERE rule = ? AND scope = ? AND key = ? AND at_us > ? AND at_us <= ?
ORDER BY at_us DESC LIMIT 1 OFFSET ?;

-- name: told
SELECT at_us FROM spending_told WHERE scope = ? AND key = ? AND amount = ?;

-- name: tell
INSERT OR REPLACE INTO spending_told VALUES (?, ?, ?, ?);

-- name: pruned
SELECT pruned_us FROM spending_version_1;

-- name: prune
UPDATE spending_version_1 SET pruned_us = :now;
DELETE FROM spending_totals WHERE span = :minute AND start < :minutes_from;
DELETE FROM spending_totals WHERE span = :hour AND start < :hours_from;
DELETE FROM spending_hosts WHERE scope > 1 AND last_us < :hours_from;
DELETE FROM spending_slots WHERE until_us < :now;
DELETE FROM spending_told WHERE scope > 1 AND at_us < :hours_from;
DELETE FROM spending_same WHERE last_us < :runs_from;
DELETE FROM spending_totals WHERE scope = 0 AND key IN (SELECT id FROM spending_runs WHERE finished_us < :runs_from);
DELETE FROM spending_tools WHERE scope = 0 AND key IN (SELECT id FROM spending_runs WHERE finished_us < :runs_from);
DELETE FROM spending_hosts WHERE scope = 0 AND key IN (SELECT id FROM spending_runs WHERE finished_us < :runs_from);
DELETE FROM spending_told WHERE scope = 0 AND key IN (SELECT id FROM spending_runs WHERE finished_us < :runs_from);
DELETE FROM spending_runs WHERE finished_us < :runs_from;
