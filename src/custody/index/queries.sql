-- Every fixed statement of the index, by name. `{where}` takes terms from the closed table in `query`,
-- `{order}` is DESC or ASC.

-- name: watermarks
SELECT shard, segment, offset, sequence FROM watermarks;

-- name: watermark_checks
SELECT shard, last_segment, last_offset, sequence, last_check FROM watermarks WHERE last_check >= 0;

-- name: put_watermark
INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: made
SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
  AND (sql LIKE 'CREATE VIRTUAL%') = ?;

-- name: is_indexed
SELECT count(*) FROM sqlite_schema WHERE name = 'events_by_call';

-- name: last_rows
SELECT (SELECT coalesce(max(row), 0) FROM runs), (SELECT coalesce(max(row), 0) FROM calls);

-- name: word
SELECT word FROM words WHERE id = ?;

-- name: word_id
SELECT id FROM words WHERE word = ?;

-- name: put_word
INSERT INTO words (word) VALUES (?) RETURNING id;

-- name: put_numbered_word
INSERT INTO words VALUES (?, ?);

-- name: load_run
SELECT row, id, name, agent, caller, channel, session, workspace, parent_id, outcome, at_us, elapsed_us,
  first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset
FROM runs WHERE id = ?;

-- name: load_run_by_row
SELECT row, id, name, agent, caller, channel, session, workspace, parent_id, outcome, at_us, elapsed_us,
  first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset
FROM runs WHERE row = ?;

-- name: load_call
SELECT row, id, run, position, tool, effect, door, agent, caller, session, workspace, inherits, parent_id,
  external_id, dry_run, outcome, at_us, elapsed_us, latency_us, first_shard, first_segment, first_offset,
  answered_shard, answered_segment, answered_offset, started_shard, started_segment, started_offset,
  finished_shard, finished_segment, finished_offset
FROM calls WHERE id = ?;

-- name: insert_run
INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?);

-- name: update_run
UPDATE runs SET id = ?2, name = ?3, agent = ?4, caller = ?5, channel = ?6, session = ?7, workspace = ?8,
  parent_id = ?9, outcome = ?10, at_us = ?11, elapsed_us = ?12,
  first_shard = ?13, first_segment = ?14, first_offset = ?15,
  finished_shard = ?16, finished_segment = ?17, finished_offset = ?18
WHERE row = ?1;

-- name: insert_call
INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?);

-- name: update_call
UPDATE calls SET id = ?2, run = ?3, position = ?4, tool = ?5, effect = ?6, door = ?7, agent = ?8, caller = ?9,
  session = ?10, workspace = ?11, inherits = ?12, parent_id = ?13, external_id = ?14, dry_run = ?15,
  outcome = ?16, at_us = ?17, elapsed_us = ?18, latency_us = ?19,
  first_shard = ?20, first_segment = ?21, first_offset = ?22,
  answered_shard = ?23, answered_segment = ?24, answered_offset = ?25,
  started_shard = ?26, started_segment = ?27, started_offset = ?28,
  finished_shard = ?29, finished_segment = ?30, finished_offset = ?31
WHERE row = ?1;

-- name: inherit
UPDATE calls SET
  agent = CASE WHEN inherits & 1 THEN ?2 ELSE agent END,
  caller = CASE WHEN inherits & 2 THEN ?3 ELSE caller END,
  session = CASE WHEN inherits & 4 THEN ?4 ELSE session END,
  workspace = CASE WHEN inherits & 8 THEN ?5 ELSE workspace END
WHERE run = ?1 AND inherits <> 0;

-- name: put_step
INSERT INTO steps (id, run, position, at_us, shard, segment, offset) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (id) DO UPDATE SET run = ?2, position = ?3, at_us = ?4, shard = ?5, segment = ?6, offset = ?7
WHERE (excluded.shard, excluded.segment, excluded.offset) < (steps.shard, steps.segment, steps.offset);

-- name: put_event
INSERT INTO events (id, name, run, call_id, at_us, shard, segment, offset)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (id) DO UPDATE SET name = ?2, run = ?3, call_id = ?4, at_us = ?5, shard = ?6, segment = ?7, offset = ?8
WHERE (excluded.shard, excluded.segment, excluded.offset) < (events.shard, events.segment, events.offset);

-- name: insert_call_text
INSERT INTO call_text (rowid, text) VALUES (?, ?);

-- name: replace_call_text
REPLACE INTO call_text (rowid, text) VALUES (?, ?);

-- name: insert_run_text
INSERT INTO run_text (rowid, text) VALUES (?, ?);

-- name: replace_run_text
REPLACE INTO run_text (rowid, text) VALUES (?, ?);

-- name: widen_call_span
INSERT INTO call_spans VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET low_us = min(low_us, ?2), high_us = max(high_us, ?3);

-- name: widen_run_span
INSERT INTO run_spans VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET low_us = min(low_us, ?2), high_us = max(high_us, ?3);

-- name: call_count_by_outcome
SELECT w.word, count(*) FROM calls c JOIN words w ON w.id = c.outcome
WHERE c.run = ? AND c.at_us > 0 GROUP BY c.outcome;

-- name: max_position
SELECT max(coalesce((SELECT max(position) FROM calls WHERE run = r.row), -1),
           coalesce((SELECT max(position) FROM steps WHERE run = r.row), -1))
FROM runs r WHERE r.id = ?;

-- name: sessions
WITH RECURSIVE in_runs (id) AS (
  SELECT min(session) FROM runs WHERE session IS NOT NULL
  UNION ALL
  SELECT (SELECT min(session) FROM runs WHERE session IS NOT NULL AND session > in_runs.id)
  FROM in_runs WHERE in_runs.id IS NOT NULL
), in_calls (id) AS (
  SELECT min(session) FROM calls WHERE session IS NOT NULL
  UNION ALL
  SELECT (SELECT min(session) FROM calls WHERE session IS NOT NULL AND session > in_calls.id)
  FROM in_calls WHERE in_calls.id IS NOT NULL
), named (id) AS (
  SELECT id FROM in_runs WHERE id IS NOT NULL UNION SELECT id FROM in_calls WHERE id IS NOT NULL
), timed AS (
  SELECT id,
    (SELECT min(at_us) FROM runs WHERE session = named.id) AS run_first_us,
    (SELECT max(at_us) FROM runs WHERE session = named.id) AS run_last_us,
    (SELECT min(at_us) FROM calls WHERE session = named.id) AS call_first_us,
    (SELECT max(at_us) FROM calls WHERE session = named.id) AS call_last_us
  FROM named
), spanned AS (
  SELECT id, w.word AS session,
    min(coalesce(run_first_us, call_first_us), coalesce(call_first_us, run_first_us)) AS first_us,
    max(coalesce(run_last_us, call_last_us), coalesce(call_last_us, run_last_us)) AS last_us
  FROM timed JOIN words w USING (id)
)
SELECT id, session, first_us, last_us FROM spanned
WHERE last_us IS NOT NULL AND (last_us, session) < (?1, ?2)
ORDER BY last_us DESC, session DESC LIMIT ?3;

-- name: session_counts
SELECT (SELECT count(*) FROM runs WHERE session = ?1 AND at_us > 0),
       (SELECT count(*) FROM calls WHERE session = ?1 AND at_us > 0);

-- name: session_agents
SELECT DISTINCT w.word FROM (
  SELECT agent FROM runs WHERE session = ?1 AND at_us > 0
  UNION SELECT agent FROM calls WHERE session = ?1 AND at_us > 0
) JOIN words w ON w.id = agent ORDER BY w.word;

-- name: calls
SELECT c.at_us, c.id, c.row FROM calls c WHERE {where} ORDER BY c.at_us {order}, c.id {order} LIMIT :limit;

-- name: runs
SELECT c.at_us, c.id, c.row FROM runs c WHERE {where} ORDER BY c.at_us {order}, c.id {order} LIMIT :limit;

-- name: events
SELECT c.at_us, c.id, c.row FROM events c WHERE {where} ORDER BY c.at_us {order}, c.id {order} LIMIT :limit;

-- name: found_calls
SELECT rowid FROM call_text WHERE call_text MATCH :text LIMIT :limit;

-- name: found_runs
SELECT rowid FROM run_text WHERE run_text MATCH :text LIMIT :limit;

-- name: call_blocks
SELECT block, low_us, high_us FROM call_spans;

-- name: run_blocks
SELECT block, low_us, high_us FROM run_spans;

-- name: calls_in_block
SELECT c.at_us, c.id, c.row FROM call_text t CROSS JOIN calls c ON c.row = t.rowid
WHERE t.call_text MATCH :text AND t.rowid BETWEEN :row_from AND :row_to AND {where}
ORDER BY c.at_us {order}, c.id {order} LIMIT :limit;

-- name: runs_in_block
SELECT c.at_us, c.id, c.row FROM run_text t CROSS JOIN runs c ON c.row = t.rowid
WHERE t.run_text MATCH :text AND t.rowid BETWEEN :row_from AND :row_to AND {where}
ORDER BY c.at_us {order}, c.id {order} LIMIT :limit;

-- name: call_by_row
SELECT ag.word, ca.word, se.word, wo.word,
  c.first_shard, c.first_segment, c.first_offset, c.answered_shard, c.answered_segment, c.answered_offset,
  c.started_shard, c.started_segment, c.started_offset, c.finished_shard, c.finished_segment, c.finished_offset
FROM calls c
  LEFT JOIN words ag ON ag.id = c.agent LEFT JOIN words ca ON ca.id = c.caller
  LEFT JOIN words se ON se.id = c.session LEFT JOIN words wo ON wo.id = c.workspace
WHERE c.row = ?;

-- name: run_by_row
SELECT first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset
FROM runs WHERE row = ?;

-- name: event_by_row
SELECT shard, segment, offset FROM events WHERE row = ?;

-- name: event_by_id
SELECT shard, segment, offset FROM events WHERE id = ?;

-- name: calls_from
SELECT id, row FROM calls WHERE id >= ?1 AND id < ?2 AND at_us IS NOT NULL ORDER BY id LIMIT ?3;

-- name: runs_from
SELECT id, row FROM runs WHERE id >= ?1 AND id < ?2 AND at_us IS NOT NULL ORDER BY id LIMIT ?3;

-- name: run_named
SELECT row, id FROM runs WHERE name = ? AND at_us IS NOT NULL ORDER BY at_us DESC, id DESC LIMIT 1;

-- name: latest_run
SELECT row, id FROM runs WHERE at_us > 0 ORDER BY at_us DESC, id DESC LIMIT 1;

-- name: recent_names
SELECT name FROM (SELECT name FROM runs WHERE at_us > 0 ORDER BY at_us DESC LIMIT 1000) WHERE name IS NOT NULL;

-- name: run_row
SELECT row FROM runs WHERE id = ?;

-- name: run_calls
SELECT row FROM calls WHERE run = (SELECT row FROM runs WHERE id = ?) AND at_us > 0
ORDER BY position IS NULL, position, at_us, id;

-- name: run_steps
SELECT shard, segment, offset FROM steps WHERE run = (SELECT row FROM runs WHERE id = ?)
ORDER BY position IS NULL, position, at_us, id;

-- name: open_calls
SELECT c.id, r.id, c.first_shard, c.first_segment, c.first_offset,
  c.started_shard, c.started_segment, c.started_offset
FROM calls c LEFT JOIN runs r ON r.row = c.run
WHERE c.outcome = 0 AND c.at_us > 0 ORDER BY c.at_us, c.id;

-- name: open_runs
SELECT id, first_shard, first_segment, first_offset FROM runs
WHERE outcome = 0 AND at_us > 0 ORDER BY at_us, id;

-- name: stats
SELECT c.tool, c.outcome, count(*), coalesce(sum(c.latency_us), 0) FROM calls c WHERE {where}
GROUP BY c.tool, c.outcome;

-- name: latencies
WITH ranked AS (
  SELECT c.tool AS tool, c.latency_us AS latency_us,
    row_number() OVER (PARTITION BY c.tool ORDER BY c.latency_us) AS place,
    count(*) OVER (PARTITION BY c.tool) AS total
  FROM calls c WHERE c.latency_us IS NOT NULL AND {where}
)
SELECT tool,
  min(CASE WHEN place * 100 >= total * 50 THEN latency_us END),
  min(CASE WHEN place * 100 >= total * 95 THEN latency_us END),
  min(CASE WHEN place * 100 >= total * 99 THEN latency_us END)
FROM ranked GROUP BY tool;
