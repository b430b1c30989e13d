# api.awk - the API reference as one page of HTML, from the public headers and nothing else: each header's opening comment,
# then its declarations in order with the comments around them, and an index of every function.
#   awk -f tools/docs/api.awk -v version=0.1.0 include/langevin/*.h > api.html

function escape(s) {
    gsub(/&/, "\\&amp;", s)
    gsub(/</, "\\&lt;", s)
    gsub(/>/, "\\&gt;", s)
    return s
}

function name_of(path) {
    sub(/.*\//, "", path)
    return path
}

# Comment text without its marks.
function prose(s) {
    sub(/^\/\* ?/, "", s)
    sub(/ *\*\/$/, "", s)
    return s
}

function flush_code() {
    if (code != "") body[header] = body[header] "<pre>" code "</pre>\n"
    code = ""
}

function begin_header() {
    flush_code()
    header = name_of(FILENAME)
    headers[++n_headers] = header
    opening = 1
    in_comment = 0
}

FNR == 1 { begin_header() }
# Guards, includes and the wrapper for C++ say nothing to a reader.
/^#ifndef LANGEVIN_|^#define LANGEVIN_|^#include|^#ifdef __cplusplus|^extern "C" \{|^#endif$/ { next }
/^}$/ { next }

# Comments that begin a line are prose; those after code stay where they are.
/^\/\*/ && !in_comment { in_comment = 1; comment = ""; flush_code() }
in_comment {
    comment = comment (comment == "" ? "" : "\n") $0
    if ($0 !~ /\*\/ *$/) next
    in_comment = 0
    text = escape(prose(comment))
    if (text ~ /^-+ .*-+$/) {
        gsub(/^-+ *| *-+$/, "", text)
        body[header] = body[header] "<h3>" text "</h3>\n"
        next
    }
    sub(/^[a-z0-9_]+\.h - /, "", text)
    body[header] = body[header] "<p" (opening ? " class=\"opening\"" : "") ">" text "</p>\n"
    opening = 0
    next
}
/^ *$/ { flush_code(); next }
{
    line = escape($0)
    if (match($0, /lgv_[a-z0-9_]+\(/) && ($0 ~ /^LGV_API/ || previous ~ /^LGV_API[^(]*$/)) {
        name = substr($0, RSTART, RLENGTH - 1)
        if (!(name in where)) {
            where[name] = header
            functions[header] = functions[header] " <a href=\"#" name "\">" name "</a>"
            sub(name, "<b id=\"" name "\">" name "</b>", line)
        }
    }
    previous = $0
    code = code line "\n"
}

END {
    flush_code()
    print "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Langevin " version ": API</title>"
    print "<style>body{max-width:60em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif}"
    print "pre{background:#f4f4f4;padding:.6em;overflow:auto;font-size:14px}p{white-space:pre-line}"
    print ".opening{font-style:italic}.index a{margin-right:.6em;white-space:nowrap}</style></head><body>"
    print "<h1>Langevin " version ": API reference</h1>"
    print "<p>Made from the headers in include/langevin. The guide is docs/embedding.md.</p>"
    for (i = 1; i <= n_headers; i++)
        if (headers[i] != "langevin.h")
            print "<p class=\"index\"><a href=\"#" headers[i] "\"><b>" headers[i] "</b></a>" functions[headers[i]] "</p>"
    for (i = 1; i <= n_headers; i++)
        if (headers[i] != "langevin.h")
            print "<h2 id=\"" headers[i] "\">&lt;langevin/" headers[i] "&gt;</h2>\n" body[headers[i]]
    print "</body></html>"
}
