# Counts the words of a text, rewrites its lines and sorts the words by how often they came, for bench/bench.py.
use strict;
use warnings;

my (%seen, $changed);
while (my $line = <STDIN>) {
    $seen{lc $1}++ while $line =~ /\b([a-z]\w*)\b/gi;
    $changed += $line =~ s/(\w+) (\w+)/$2 $1/g;
}
for my $word (sort { $seen{$b} <=> $seen{$a} || $a cmp $b } keys %seen) {
    printf "%-20s %6d\n", $word, $seen{$word};
}
print "$changed\n";
