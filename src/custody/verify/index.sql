-- What the index says, in the order in which `index_rows` makes the same from records. A value that a call or
-- step leaves to its run is NULL where the row has the run's, and -1 where it has another.

-- name: calls
SELECT :tag + 0, c.id, r.id, c.position, c.tool, c.effect, c.door,
  CASE WHEN c.inherits & 1 THEN iif(c.agent IS r.agent, NULL, -1) ELSE c.agent END,
  CASE WHEN c.inherits & 2 THEN iif(c.caller IS r.caller, NULL, -1) ELSE c.caller END,
  CASE WHEN c.inherits & 4 THEN iif(c.session IS r.session, NULL, -1) ELSE c.session END,
  CASE WHEN c.inherits & 8 THEN iif(c.workspace IS r.workspace, NULL, -1) ELSE c.workspace END,
  iif(c.first_shard IS NULL, NULL, c.inherits), c.parent_id, c.external_id, c.dry_run, c.step_id,
  c.proposal_id, c.action_id, c.attempt, c.connection, c.outcome, c.at_us, c.elapsed_us, c.latency_us, c.passed,
  c.first_shard, c.first_segment, c.first_offset, c.answered_shard, c.answered_segment, c.answered_offset,
  c.started_shard, c.started_segment, c.started_offset, c.finished_shard, c.finished_segment, c.finished_offset
FROM calls c LEFT JOIN runs r ON r.row = c.run;

-- name: runs
SELECT :tag + 1, id, name, agent, caller, channel, session, workspace, parent_id, external_id, at_us, elapsed_us, outcome,
  reason, passed, first_shard, first_segment, first_offset, finished_shard, finished_segment, finished_offset
FROM runs WHERE first_shard IS NOT NULL OR finished_shard IS NOT NULL OR at_us IS NOT NULL OR outcome <> 0;

-- name: steps
SELECT :tag + 2, s.id, r.id, s.position, s.iteration, s.agent, s.model, s.requested_model, s.finish_reason,
  s.responded, s.parent_id, s.external_id, s.since_previous_us, s.model_us, s.input_tokens, s.output_tokens,
  s.reasoning_tokens, s.cache_read_tokens, s.cache_write_tokens, s.cost_nano_usd, s.at_us, s.shard, s.segment,
  s.offset
FROM steps s LEFT JOIN runs r ON r.row = s.run;

-- name: events
SELECT :tag + 3, e.id, e.name, r.id, e.call_id, e.at_us, e.shard, e.segment, e.offset
FROM events e LEFT JOIN runs r ON r.row = e.run;
