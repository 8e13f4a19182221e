"""What runs on the server, in Lua: it decides, at one instant and by one clock, for all relays.

The server keeps its *life* (a random word, the process that it is, and when it began; an empty server, or one
whose data another process left, begins one), the *roll* (each relay's session, and until when it counts as
here), and for each budget two hashes of cells, a 64th of the window each: what all relays took, and beside it
what each relay took, so that what a relay says replaces what it said before.
"""

from egressguard_milter.alone import GOES_ON_S

# Begins a session: whatever an earlier connection of this relay still sends is refused from now on. The data
# of a life that another process began are a copy of whatever age: the server has started again with what it
# had saved, or it is a promoted replica, which may lack the last writes. INFO tells which process this is;
# whoever may not ask cannot tell a copy, and begins nothing. Whoever knows a later life than there is has
# found a primary of the past.
GREET = """
local t = redis.call('TIME')
local life = redis.call('GET', KEYS[1])
local function born(which) return tonumber(string.match(which, ' (%d+)$') or '-1') end
local info = redis.pcall('INFO', 'server')
local process = type(info) == 'string' and string.match(info, 'run_id:(%w+)')
if not process then return '' end
local copy = life and string.match(life, '^%w+%-(%w*) ') ~= process
local past = life and life ~= ARGV[4] and born(life) <= born(ARGV[4])
if not life or copy or past then
    life = ARGV[3] .. '-' .. process .. ' ' .. (t[1] * 1000 + math.floor(t[2] / 1000))
    redis.call('SET', KEYS[1], life)
    redis.call('DEL', KEYS[2])
end
local heard = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '%d+$') or '0'
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. heard)
return life
"""
CELLS = """
local function width(window) return window / 64 end
local function live(cell, window, at) return (cell + 1) * width(window) > at - window end
local function own(budget, relay)
    local base = #KEYS[1] - #':life'
    return string.sub(KEYS[1], 1, base) .. ':of:' .. #relay .. ':' .. relay .. string.sub(budget, base + 1)
end
local function less(hash, cell, n)
    if redis.call('HINCRBY', hash, cell, -n) <= 0 then redis.call('HDEL', hash, cell) end
end
"""
TAKE = CELLS + """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local life, me, word, here, relays, anyhow = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local session, heard = string.match(redis.call('HGET', KEYS[2], me) or '', '^(%S+) (%d+)$')
if redis.call('GET', KEYS[1]) ~= life or session ~= word then return {now, 0, 'unknown'} end
if here > tonumber(heard) then redis.call('HSET', KEYS[2], me, word .. ' ' .. here) end

local born, others, all = tonumber(string.match(life, '%d+$')), {}, redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
    local till = tonumber(string.match(all[i + 1], '%d+$'))
    if till > 0 and all[i] ~= me then others[#others + 1] = {all[i], till} end
end
table.sort(others, function(a, b) return a[2] > b[2] end)  -- names that are no more come last
local missing, away = math.max(0, relays - 1 - #others), {}
for i = 1, math.min(relays - 1, #others) do
    if others[i][2] < now then away[#away + 1] = others[i] end
end

local function add(budget, window, age, n)
    local cell, mine = math.floor((now - age) / width(window)), own(budget, me)
    redis.call('HINCRBY', budget, cell, n)
    redis.call('PEXPIRE', budget, math.ceil(window * 66 / 64))
    if redis.call('HINCRBY', mine, cell, n) == n then
        local cells = redis.call('HGETALL', mine)
        for i = 1, #cells, 2 do
            if (cells[i] + 1) * width(window) <= now - 2 * window then redis.call('HDEL', mine, cells[i]) end
        end
    end
    redis.call('PEXPIRE', mine, math.ceil(window * 2.1))
    return cell
end
local function unsay(budget, window)
    local mine = own(budget, me)
    local cells = redis.call('HGETALL', mine)
    for i = 1, #cells, 2 do
        if live(tonumber(cells[i]), window, now) then less(budget, cells[i], tonumber(cells[i + 1])) end
    end
    redis.call('DEL', mine)
end
local function used(budget, window)
    local cells, sum, oldest = redis.call('HGETALL', budget), 0, nil
    for i = 1, #cells, 2 do
        local cell = tonumber(cells[i])
        if not live(cell, window, now) then
            redis.call('HDEL', budget, cells[i])
        else
            sum = sum + tonumber(cells[i + 1])
            if oldest == nil or cell < oldest then oldest = cell end
        end
    end
    return sum, oldest
end
-- What relays that are not here may let through meanwhile, beyond what is counted of them already.
local function set_aside(budget, window, most)
    local part = math.floor(most / relays)
    local sum = missing * part
    for _, relay in ipairs(away) do
        local cells, counted, had = redis.call('HGETALL', own(budget, relay[1])), 0, 0
        for i = 1, #cells, 2 do
            local cell, n = tonumber(cells[i]), tonumber(cells[i + 1])
            if live(cell, window, now) then counted = counted + n end
            if live(cell, window, relay[2]) then had = had + n end
        end
        if now - relay[2] >= math.min(window, GOES_ON) then had = part end
        sum = sum + math.max(0, math.min(had, part) - counted)
    end
    return sum
end

local at, wanted = 7, {}
for i = 3, #KEYS do
    local window, most, amount, said = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    if said >= 0 then unsay(KEYS[i], window) end
    for _ = 1, said do
        add(KEYS[i], window, tonumber(ARGV[at]), tonumber(ARGV[at + 1]))
        at = at + 2
    end
    wanted[i] = {window, most, amount}
end
for i = 3, #KEYS do
    local window, most, amount = wanted[i][1], wanted[i][2], wanted[i][3]
    if amount > 0 and missing > 0 and now < born + window then
        if anyhow ~= '1' then return {now, missing, 'apart', now - born} end
    elseif amount > 0 then
        local sum, oldest = used(KEYS[i], window)
        sum = sum + set_aside(KEYS[i], window, most)
        if sum + amount > most then
            local free = oldest and ((oldest + 1) * width(window) + window - now) or window
            return {now, missing, 'over', i - 3, sum, math.ceil(free)}
        end
    end
end
local cells = {now, missing, 'taken'}
for i = 3, #KEYS do
    local amount = wanted[i][3]
    cells[#cells + 1] = amount ~= 0 and add(KEYS[i], wanted[i][1], 0, amount) or 0
end
return cells
"""  # noqa: E501
BACK = CELLS + """
local session = string.match(redis.call('HGET', KEYS[2], ARGV[2]) or '', '^%S+')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or session ~= ARGV[3] then return 0 end
local all = 1
for i = 3, #KEYS do
    local cell, n, mine = ARGV[2 * i - 2], tonumber(ARGV[2 * i - 1]), own(KEYS[i], ARGV[2])
    if tonumber(redis.call('HGET', mine, cell) or '0') >= n then
        less(KEYS[i], cell, n)
        less(mine, cell, n)
    else
        all = 0
    end
end
return all
"""
FORGIVE = CELLS + """
local relays, gone = redis.call('HGETALL', KEYS[2]), 0
for i = 3, #KEYS do
    gone = gone + redis.call('DEL', KEYS[i])
    for n = 1, #relays, 2 do redis.call('DEL', own(KEYS[i], relays[n])) end
end
return gone
"""


def _short(script: str) -> str:
    """Without what is for people: it is sent each time."""
    lines = (line.strip() for line in script.replace("GOES_ON", str(round(GOES_ON_S * 1000))).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--"))


GREET, TAKE, BACK, FORGIVE = map(_short, (GREET, TAKE, BACK, FORGIVE))
