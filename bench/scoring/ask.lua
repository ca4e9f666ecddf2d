-- For wrk: POST the lines of a file in turn, and print what bench/scoring/load.py reads.
local requests, asked = {}, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
end

function request()
  asked = asked % #requests + 1
  return requests[asked]
end

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %d, "per_second": %.2f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests - errors.status, (summary.requests - errors.status) / (summary.duration / 1e6), failed,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
