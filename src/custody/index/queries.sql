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
  AND name NOT LIKE 'spending~_%' ESCAPE '~' AND (sql LIKE 'CREATE VIRTUAL%') = ?;

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
  reason, passed, external_id, first_shard, first_segment, first_offset, finished_shard, finished_segment,
  finished_offset
FROM runs WHERE id = ?;

-- name: load_run_by_row
SELECT row, id, name, agent, caller, channel, session, workspace, parent_id, outcome, at_us, elapsed_us,
  reason, passed, external_id, first_shard, first_segment, first_offset, finished_shard, finished_segment,
  finished_offset
FROM runs WHERE row = ?;

-- name: load_call
SELECT row, id, run, position, tool, effect, door, agent, caller, session, workspace, inherits, parent_id,
  external_id, dry_run, outcome, at_us, elapsed_us, latency_us, step_id, passed, error, proposal_id, action_id, attempt,
  connection, first_shard, first_segment, first_offset, answered_shard, answered_segment, answered_offset,
  started_shard, started_segment, started_offset, finished_shard, finished_segment, finished_offset
FROM calls WHERE id = ?;

-- name: insert_run
INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?);

-- name: update_run
UPDATE runs SET id = ?2, name = ?3, agent = ?4, caller = ?5, channel = ?6, session = ?7, workspace = ?8,
  parent_id = ?9, outcome = ?10, at_us = ?11, elapsed_us = ?12, reason = ?13, passed = ?14, external_id =
  ?15, first_shard = ?16, first_segment = ?17, first_offset = ?18, finished_shard = ?19,
  finished_segment = ?20, finished_offset = ?21
WHERE row = ?1;

-- name: insert_call
INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?);

-- name: update_call
UPDATE calls SET id = ?2, run = ?3, position = ?4, tool = ?5, effect = ?6, door = ?7, agent = ?8, caller =
  ?9, session = ?10, workspace = ?11, inherits = ?12, parent_id = ?13, external_id = ?14, dry_run = ?15,
  outcome = ?16, at_us = ?17, elapsed_us = ?18, latency_us = ?19, step_id = ?20, passed = ?21, error = ?22,
  proposal_id = ?23, action_id = ?24, attempt = ?25, connection = ?26, first_shard = ?27, first_segment =
  ?28, first_offset = ?29, answered_shard = ?30, answered_segment = ?31, answered_offset = ?32,
  started_shard = ?33, started_segment = ?34, started_offset = ?35, finished_shard = ?36,
  finished_segment = ?37, finished_offset = ?38
WHERE row = ?1;

-- name: inherit
UPDATE calls SET
  agent = CASE WHEN inherits & 1 THEN ?2 ELSE agent END,
  caller = CASE WHEN inherits & 2 THEN ?3 ELSE caller END,
  session = CASE WHEN inherits & 4 THEN ?4 ELSE session END,
  workspace = CASE WHEN inherits & 8 THEN ?5 ELSE workspace END
WHERE run = ?1 AND inherits <> 0;

-- name: put_step
INSERT INTO steps (
  id, run, position, iteration, agent, model, requested_model, finish_reason, responded, parent_id,
  external_id, since_previous_us, model_us, input_tokens, output_tokens, reasoning_tokens,
  cache_read_tokens, cache_write_tokens, cost_nano_usd, at_us, shard, segment, offset
) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET (
  run, position, iteration, agent, model, requested_model, finish_reason, responded, parent_id,
  external_id, since_previous_us, model_us, input_tokens, output_tokens, reasoning_tokens,
  cache_read_tokens, cache_write_tokens, cost_nano_usd, at_us, shard, segment, offset
) = (
  excluded.run, excluded.position, excluded.iteration, excluded.agent, excluded.model,
  excluded.requested_model, excluded.finish_reason, excluded.responded, excluded.parent_id,
  excluded.external_id, excluded.since_previous_us, excluded.model_us, excluded.input_tokens,
  excluded.output_tokens, excluded.reasoning_tokens, excluded.cache_read_tokens,
  excluded.cache_write_tokens, excluded.cost_nano_usd, excluded.at_us, excluded.shard, excluded.segment,
  excluded.offset
)
WHERE (excluded.shard, excluded.segment, excluded.offset) < (steps.shard, steps.segment, steps.offset);

-- name: put_event
INSERT INTO events (id, name, run, call_id, at_us, shard, segment, offset)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (id) DO UPDATE SET name = ?2, run = ?3, call_id = ?4, at_us = ?5, shard = ?6, segment = ?7, offset = ?8
WHERE (excluded.shard, excluded.segment, excluded.offset) < (events.shard, events.segment, events.offset);

-- name: put_question
INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (call_id) DO UPDATE SET (digest, at_us, open_until_us, shard, segment, offset)
  = (excluded.digest, excluded.at_us, excluded.open_until_us, excluded.shard, excluded.segment, excluded.offset)
WHERE (excluded.at_us, excluded.shard, excluded.segment, excluded.offset)
  < (questions.at_us, questions.shard, questions.segment, questions.offset);

-- name: put_held
INSERT INTO held VALUES (?, ?, ?)
ON CONFLICT (call_id) DO UPDATE SET (settled, settled_by) = (excluded.settled, excluded.settled_by)
WHERE excluded.settled_by IS NOT NULL;

-- name: question
SELECT q.call_id, q.shard, q.segment, q.offset, c.answered_shard, c.answered_segment, c.answered_offset,
  c.finished_shard, c.finished_segment, c.finished_offset, c.started_shard IS NOT NULL,
  ag.word, ca.word, se.word, r.id
FROM questions q JOIN calls c ON c.id = q.call_id LEFT JOIN runs r ON r.row = c.run
  LEFT JOIN words ag ON ag.id = c.agent LEFT JOIN words ca ON ca.id = c.caller
  LEFT JOIN words se ON se.id = c.session
WHERE q.call_id = ?;

-- name: questions_from
SELECT call_id FROM questions WHERE call_id >= ?1 AND call_id < ?2 ORDER BY call_id LIMIT ?3;

-- name: open_questions
SELECT q.call_id FROM questions q JOIN calls c ON c.id = q.call_id
WHERE q.open_until_us > ?1 AND c.answered_shard IS NULL AND c.started_shard IS NULL
ORDER BY q.at_us, q.call_id LIMIT ?2;

-- name: answered_questions
SELECT q.call_id FROM questions q JOIN calls c ON c.id = q.call_id
WHERE q.digest = ?1 AND c.session IS ?2 AND q.open_until_us > ?3 AND c.answered_shard IS NOT NULL
ORDER BY q.at_us DESC, q.call_id LIMIT ?4;

-- name: granted_questions
SELECT DISTINCT q.call_id FROM questions q JOIN calls c ON c.id = q.call_id
  JOIN events e ON e.call_id = q.call_id AND e.name = ?3
WHERE q.digest = ?1 AND c.session IS ?2 ORDER BY q.at_us DESC LIMIT ?4;

-- name: grants
SELECT DISTINCT q.call_id FROM events e JOIN questions q ON q.call_id = e.call_id
WHERE e.name = ?1 ORDER BY e.at_us DESC LIMIT ?2;

-- name: named_events_of_call
SELECT e.shard, e.segment, e.offset FROM events e WHERE e.call_id = ?1 AND e.name IN (?2, ?3, ?4, ?5)
ORDER BY e.at_us, e.id LIMIT ?6;

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
SELECT w.word, count(*), sum(c.outcome <> 0 OR c.started_shard IS NOT NULL)
FROM calls c JOIN words w ON w.id = c.outcome WHERE c.run = ? AND c.at_us > 0 GROUP BY c.outcome;

-- name: step_sums
SELECT count(*), sum(input_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cache_read_tokens),
  sum(cache_write_tokens), sum(cost_nano_usd), sum(input_tokens IS NULL AND output_tokens IS NULL),
  sum(cost_nano_usd IS NULL)
FROM steps WHERE run = ?;

-- name: run_events
SELECT shard, segment, offset FROM events WHERE run = ? AND name = ? ORDER BY at_us LIMIT ?;

-- name: events_since
SELECT shard, segment, offset FROM events WHERE name = ? AND at_us >= ? ORDER BY at_us LIMIT ?;

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
  c.started_shard, c.started_segment, c.started_offset, c.finished_shard, c.finished_segment, c.finished_offset,
  h.settled, h.settled_by
FROM calls c
  LEFT JOIN words ag ON ag.id = c.agent LEFT JOIN words ca ON ca.id = c.caller
  LEFT JOIN words se ON se.id = c.session LEFT JOIN words wo ON wo.id = c.workspace
  LEFT JOIN held h ON h.call_id = c.id
WHERE c.row = ?;

-- name: run_by_row
SELECT at_us, first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset
FROM runs WHERE row = ?;

-- name: event_by_row
SELECT shard, segment, offset FROM events WHERE row = ?;

-- name: event_by_id
SELECT shard, segment, offset FROM events WHERE id = ?;

-- name: call_events
SELECT shard, segment, offset FROM events WHERE call_id = ? ORDER BY at_us, id;

-- name: own_events_of_run
SELECT shard, segment, offset FROM events WHERE run = ? AND call_id IS NULL ORDER BY at_us, id;

-- name: calls_from
SELECT id, row FROM calls WHERE id >= ?1 AND id < ?2 AND at_us IS NOT NULL ORDER BY id LIMIT ?3;

-- name: runs_from
SELECT id, row FROM runs WHERE id >= ?1 AND id < ?2 AND at_us IS NOT NULL ORDER BY id LIMIT ?3;

-- name: steps_from
SELECT id, row FROM steps WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3;

-- name: step_with_id
SELECT run FROM steps WHERE id = ?;

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

-- name: run_calls_after
SELECT row FROM calls WHERE run = (SELECT row FROM runs WHERE id = ?) AND position > ? AND at_us > 0
ORDER BY position, at_us, id LIMIT ?;

-- name: first_unfinished
SELECT position FROM calls
WHERE run = (SELECT row FROM runs WHERE id = ?) AND outcome = 0 AND position IS NOT NULL AND +at_us > 0
ORDER BY position LIMIT 1;

-- name: run_steps
SELECT s.shard, s.segment, s.offset, w.word
FROM steps s JOIN runs r ON r.row = s.run LEFT JOIN words w ON w.id = r.agent
WHERE r.id = ? ORDER BY s.position IS NULL, s.position, s.at_us, s.id;

-- name: run_steps_after
SELECT s.shard, s.segment, s.offset, w.word
FROM steps s JOIN runs r ON r.row = s.run LEFT JOIN words w ON w.id = r.agent
WHERE r.id = ? AND s.position > ? ORDER BY s.position, s.at_us, s.id LIMIT ?;

-- name: open_calls
SELECT c.id, r.id, c.first_shard, c.first_segment, c.first_offset,
  c.started_shard, c.started_segment, c.started_offset,
  c.answered_shard, c.answered_segment, c.answered_offset
FROM calls c LEFT JOIN runs r ON r.row = c.run
WHERE c.outcome = 0 AND c.at_us > 0 ORDER BY c.at_us, c.id;

-- name: open_runs
SELECT id, first_shard, first_segment, first_offset FROM runs
WHERE outcome = 0 AND at_us > 0 ORDER BY at_us, id;

-- name: stats
SELECT c.tool, c.outcome, count(*), CAST(total(c.latency_us) AS INTEGER) FROM calls c WHERE {where}
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

-- name: step_by_row
SELECT s.shard, s.segment, s.offset, w.word
FROM steps s JOIN runs r ON r.row = s.run LEFT JOIN words w ON w.id = r.agent WHERE s.row = ?;

-- name: child_runs
SELECT row, id FROM runs WHERE parent_id = ? AND at_us > 0 ORDER BY at_us, id LIMIT ?;

-- name: parent_run
SELECT p.row, p.id FROM runs c JOIN runs p ON p.id = c.parent_id WHERE c.id = ? AND p.at_us IS NOT NULL;

-- name: last_runs
SELECT row FROM (
  SELECT c.row, c.at_us, c.id, row_number() OVER (PARTITION BY c.{by} ORDER BY c.at_us DESC, c.id DESC) AS place
  FROM runs c WHERE {where}
) WHERE place = 1 ORDER BY at_us DESC, id DESC LIMIT :limit;

-- name: quiet_runs
SELECT row, last_us, running FROM (
  SELECT c.row, c.id,
    max(c.at_us,
      coalesce((SELECT max(at_us) FROM calls WHERE run = c.row), 0),
      coalesce((SELECT max(at_us + elapsed_us) FROM calls WHERE run = c.row), 0),
      coalesce((SELECT max(at_us) FROM steps WHERE run = c.row), 0),
      coalesce((SELECT max(at_us) FROM events WHERE run = c.row), 0)) AS last_us,
    (SELECT count(*) FROM calls WHERE run = c.row AND outcome = 0 AND at_us > 0) AS running
  FROM runs c WHERE {where}
) WHERE last_us <= :before_us ORDER BY last_us, id LIMIT :limit;

-- name: later_records
SELECT answered_shard, answered_segment, answered_offset, started_shard, started_segment, started_offset
FROM calls WHERE run = ? AND outcome = 0 AND at_us > 0;

-- name: usage
WITH used AS (
  SELECT {step_key} AS key, count(*) AS steps, sum(c.input_tokens) AS input_tokens,
    sum(c.output_tokens) AS output_tokens, sum(c.reasoning_tokens) AS reasoning_tokens,
    sum(c.cache_read_tokens) AS cache_read_tokens, sum(c.cache_write_tokens) AS cache_write_tokens,
    sum(c.cost_nano_usd) AS cost_nano_usd,
    sum(c.input_tokens IS NULL AND c.output_tokens IS NULL) AS without_tokens,
    sum(c.cost_nano_usd IS NULL) AS without_cost, 0 AS calls
  FROM steps c JOIN runs r ON r.row = c.run {step_join} WHERE {step_where} GROUP BY 1
  UNION ALL
  SELECT {call_key}, 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, count(*)
  FROM calls c {call_join} WHERE {call_where} GROUP BY 1
)
SELECT key, sum(steps), sum(input_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cache_read_tokens),
  sum(cache_write_tokens), sum(cost_nano_usd), sum(without_tokens), sum(without_cost), sum(calls)
FROM used GROUP BY key
ORDER BY sum(cost_nano_usd) DESC, coalesce(sum(input_tokens), 0) + coalesce(sum(output_tokens), 0) DESC,
  sum(steps) DESC, sum(calls) DESC, min(key)
LIMIT :limit;

-- name: failure_patterns
SELECT c.tool, c.error, count(*), min(c.at_us), max(c.at_us)
FROM calls c WHERE c.error IS NOT NULL AND {where} GROUP BY c.tool, c.error HAVING count(*) >= :count_min
ORDER BY count(*) DESC, max(c.at_us) DESC, max(c.id) LIMIT :limit;

-- name: last_failure
SELECT c.row FROM calls c WHERE c.tool = :this_tool AND c.error = :this_error AND {where}
ORDER BY c.at_us DESC, c.id DESC LIMIT 1;

-- name: failure_outcomes
SELECT c.outcome, count(*) FROM calls c WHERE c.tool = :this_tool AND c.error = :this_error AND {where}
GROUP BY c.outcome;

-- name: runs_repeating
SELECT r.row, r.id FROM (
  SELECT c.run AS run, max(c.at_us) AS last_us FROM calls c WHERE c.run IS NOT NULL AND {where}
  GROUP BY c.run, c.tool HAVING count(*) >= :repeats_min
) JOIN runs r ON r.row = run GROUP BY r.row ORDER BY max(last_us) DESC, r.id LIMIT :limit;

-- name: turns
SELECT id, tool, position, at_us, outcome, first_shard, first_segment, first_offset
FROM calls WHERE run = ? AND at_us > 0 ORDER BY position IS NULL, position, at_us, id;

-- name: slowest
SELECT c.row FROM calls c WHERE c.latency_us IS NOT NULL AND {where}
ORDER BY c.latency_us DESC, c.at_us DESC, c.id LIMIT :limit;

-- name: timeline
WITH parts AS (
  SELECT 'call' AS kind, row, id, position, at_us FROM calls WHERE run = :run AND at_us > 0
  UNION ALL SELECT 'step', row, id, position, at_us FROM steps WHERE run = :run
  UNION ALL SELECT 'event', row, id, NULL, at_us FROM events WHERE run = :run
  UNION ALL SELECT 'event', e.row, e.id, NULL, e.at_us FROM calls c JOIN events e ON e.call_id = c.id
    WHERE c.run = :run AND e.run IS NULL
), placed AS (
  -- What has a position keeps its place among its like, whatever its clock said; the rest goes by time.
  SELECT *, CASE WHEN position IS NULL THEN at_us ELSE
    max(CASE WHEN position IS NOT NULL THEN at_us END) OVER (ORDER BY position IS NULL, position, at_us, id)
    END AS from_us
  FROM parts
)
SELECT kind, row FROM placed ORDER BY from_us, position IS NULL, position, at_us, id LIMIT :limit OFFSET :begin;
